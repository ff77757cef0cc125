"""Load weights from files: find the state_dict in a checkpoint, under any keys and wrapper prefixes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from bnkit.errors import ModelError
from bnkit.model.untrusted_checkpoint import Inert, holds_modules, read_checkpoint

# Wrappers of torch that add a part in the middle of a name: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# The counter of torch.optim.swa_utils.AveragedModel, next to the weights under "module.".
_AVERAGED = "n_averaged"
# The usual keys of the state_dict, which the message does not mention.
# What holds a program and not a state_dict.
_PROGRAMS = {".onnx", ".pt2"}
_USUAL = ("state_dict", "model_state_dict", "model")
# The deepest nesting of dictionaries in which a state_dict is searched.
_DEEPEST = 3
_TOLD = 300
# What PyTorch says of each file that is not its own, with the advice to run its code.
_UNSAFE_ADVICE, _NOT_PICKLE = "Re-running `torch.load` with `weights_only`", "it is not a PyTorch file, or is damaged"
# As a path, an address has one slash, or a backslash on Windows; one letter is a drive.
_ADDRESS = re.compile(r"\w{2,}:[/\\]")
_UNSUPPORTED = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class) ([\w.]+)")


@dataclass(frozen=True)
class LoadedWeights:
    """Where the weights of a model were found in a file.

    Attributes:
        path: The file.
        keys: The keys of the dictionaries around the state_dict, outermost first.
        prefixes: The prefixes that were removed from the names of its tensors.
    """

    path: Path
    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    @property
    def line(self) -> str | None:
        """One line on keys and prefixes; None if no prefix was removed and the state_dict has a usual key or none."""
        if not self.prefixes and (not self.keys or (len(self.keys) == 1 and self.keys[0] in _USUAL)):
            return None
        parts = [f"the state_dict under {_quoted(self.keys, '/')}"] if self.keys else []
        if self.prefixes:
            plural = "es" if len(self.prefixes) > 1 else ""
            parts.append(f"names without the prefix{plural} {_quoted(self.prefixes)}")
        return f"{self.path}: {', '.join(parts)}"

    def own_names(self, written: Path) -> str:
        """A remark on the file ``written`` of these weights; empty if it holds a program, or has the names that were read."""
        if written.suffix in _PROGRAMS:
            return ""
        if self.prefixes:
            return ", the state_dict alone, under the network's own names"
        return ", the state_dict alone" if self.line is not None else ""


def load_weights(model: nn.Module, path: str | Path) -> LoadedWeights:
    """Load the weights in ``path`` into ``model``: safetensors, or a PyTorch file, of which only tensors are unpickled.

    The ``state_dict`` may be nested in dictionaries, under any keys ("state_dict", "model", "ema"). Names may have prefixes
    of wrappers: ``module.`` (DDP, AveragedModel), ``model.`` (Lightning), ``_orig_mod.`` (torch.compile), and others.

    Returns:
        Where the weights were found.

    Raises:
        ModelError: The file cannot be read, does not hold the ``state_dict`` of this model, or holds several
            candidates; the message names the keys. Tensors loaded before the error stay loaded.
    """
    path = Path(path)
    expected = frozenset(model.state_dict())
    content = _content(path)
    candidates = list(_state_dicts(content))
    if not candidates:
        if isinstance(content, Inert):
            raise _is_code(path, content.name)
        raise ModelError(
            f"{path} holds a {type(content).__name__} that is not a state_dict; expected tensors by name, as "
            "torch.save(model.state_dict(), path) writes them, or a dictionary with them"
        )
    keys, tensors = _choose(candidates, expected, path)
    named, prefixes = _without_prefixes(tensors, expected, path)
    loaded = LoadedWeights(path, keys, prefixes)
    where = "" if loaded.line is None else f" ({loaded.line.removeprefix(f'{path}: ')})"
    try:
        missing, unexpected = model.load_state_dict(named, strict=False)
    except Exception as error:
        reason = " ".join(str(error).split()).replace("Error(s) in loading state_dict for ", "")
        raise ModelError(
            f"{path}{where} does not fit {reason[:_TOLD]}; expected the weights of this very network"
        ) from error
    if missing or unexpected:
        parts = [f"it {text} {_some(names)}" for text, names in (("lacks", missing), ("also has", unexpected)) if names]
        only_biases = missing and not unexpected and all(key.rpartition(".")[2] == "bias" for key in missing)
        hint = "; for a file without these biases, build those layers with bias=False" if only_biases else ""
        raise ModelError(
            f"{path}{where} does not fit {type(model).__name__}: {' and '.join(parts)}; expected the keys of its state_dict{hint}"
        )
    return loaded


def _content(path: Path) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is an address" if _ADDRESS.match(str(path)) else "is not there"
        raise ModelError(f"{path} {what}; expected a file of weights on this machine: safetensors or PyTorch's")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return read_checkpoint(path)
    except Exception as error:  # a truncated or foreign file may raise any error
        text = " ".join(str(error).split())
        needs = _UNSUPPORTED.search(text)
        if needs is not None:
            raise _is_code(path, needs[1]) from error
        reason = _NOT_PICKLE if _UNSAFE_ADVICE in text else f"{type(error).__name__}: {text[:_TOLD]}"
        raise ModelError(
            f"{path} cannot be read ({reason}); expected weights: safetensors, or PyTorch's with tensors alone"
        ) from error


def _is_code(path: Path, name: str) -> ModelError:
    part = ".state_dict()" if holds_modules(path) else '["state_dict"]'
    return ModelError(
        f"{path} cannot be read: it holds {name}, which is code; expected tensors alone: if you trust the file, "
        f"torch.save(torch.load(FILE, weights_only=False){part}, NEW) takes them out"
    )


def _state_dicts(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The dictionaries of tensors by name in ``content``, and the keys that lead to them."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield keys, dict(content)
    elif len(keys) < _DEEPEST:
        for key, value in content.items():
            yield from _state_dicts(value, (*keys, key))


_Candidate = tuple[tuple[str, ...], dict[str, Tensor]]


def _choose(candidates: list[_Candidate], expected: frozenset[str], path: Path) -> _Candidate:
    """The candidate with the most names of ``expected``: an optimizer's state has none, another network fewer.

    Raises:
        ModelError: Several candidates have the same number of names.
    """
    scores = [max(_counts(tensors, expected).values(), default=0) for _, tensors in candidates]
    best = [candidate for candidate, score in zip(candidates, scores, strict=True) if score == max(scores)]
    if len(best) > 1:
        names = [_quoted(keys, "/") for keys, _ in best]
        index = "".join(f"[{key!r}]" for key in best[0][0])
        raise ModelError(
            f"{path} holds {len(best)} state_dicts, {' and '.join(names[:4])}; expected one: "
            f"torch.save(torch.load({path.name!r}, weights_only=True){index}, NEW) writes the first to another file"
        )
    return best[0]


def _without_prefixes(
    tensors: Mapping[str, Tensor], expected: frozenset[str], path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``tensors`` under the names of the model, and the prefixes that were removed.

    Raises:
        ModelError: Several prefixes fit equally well.
    """
    counts = _counts(tensors, expected)
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    # If less than half of the names are found, it is another network, and the names agree by chance.
    if "" in best or not best or (len(best) > 1 and 2 * most < len(expected)):
        best = [""]
    if len(best) > 1:
        raise ModelError(
            f"{path} holds the weights {len(best)} times, under {' and '.join(map(repr, best[:4]))}; expected once: write those "
            "that you want into a separate file"
        )
    (prefix,) = best
    inner = _inner_wrappers(expected)
    named, taken_off = {}, dict[str, None]()
    for key, tensor in tensors.items():
        bare = _bare(key, inner)
        if prefix.endswith("module.") and bare == prefix.removesuffix("module.") + _AVERAGED:
            taken_off[bare] = None
            continue
        name = bare.removeprefix(prefix)
        if name != key:
            is_leading = key.endswith(f".{name}")
            taken_off[
                key.removesuffix(name) if is_leading else f"{', '.join(sorted(inner & set(key.split('.'))))}."
            ] = None
        named[name] = tensor
    return named, tuple(taken_off)


def _counts(tensors: Mapping[str, Tensor], expected: frozenset[str]) -> Counter[str]:
    """For each prefix, how many names of ``expected`` follow it."""
    inner = _inner_wrappers(expected)
    counts = Counter[str]()
    for key in tensors:
        parts = _bare(key, inner).split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _inner_wrappers(expected: frozenset[str]) -> frozenset[str]:
    """The names of wrappers that do not occur in the model itself."""
    return _WRAPPERS - {part for key in expected for part in key.split(".")}


def _bare(key: str, inner: frozenset[str]) -> str:
    """``key`` without the names of wrappers."""
    return ".".join(part for part in key.split(".") if part not in inner)


def _quoted(words: tuple[str, ...], between: str = ", ") -> str:
    """At most four of them, in quotes."""
    if between == "/":
        return repr("/".join(words)) if words else "its top level"
    return between.join(map(repr, words[:4])) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
