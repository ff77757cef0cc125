"""A changed model on disk: as weights, ONNX or an exported program."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save as as_safetensors
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from bnkit.errors import BnkitError, ModelError, RecordError, SettingsError
from bnkit.model.inspect.example import Example, tensors_in
from bnkit.model.preserve_state import preserve_model
from bnkit.model.verify.verify_onnx_file import prove_onnx
from bnkit.model.verify.verify_written_file import free_rows, prove_program, prove_weights

# An ONNX file is a protocol buffer, which is limited to 2 GiB: larger weights go into a second file next to it.
_MOST_IN_ONNX = 2**31 - 2**24
_TOLD = 300
# The names that torch.export gives free dimensions.
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def check_destination(path: str | Path, *, has_example: bool, read_from: Iterable[str | Path] = ()) -> None:
    """Check that ``save`` can write to ``path``; call it before any work is done.

    Args:
        path: The file to write; its ending selects the format: ``.safetensors``, ``.onnx`` or ``.pt2``.
        has_example: Whether an example input is available to export the model with.
        read_from: The files that the model was read from; they must not be overwritten.

    Raises:
        SettingsError: The ending is not supported, an example or a package is missing, or the path is one of
            ``read_from``.
        RecordError: The folder does not exist.
    """
    path = Path(path)
    ending = path.suffix
    if ending not in _WRITERS:
        what = f"ends in {ending!r}" if ending else "has no ending"
        raise SettingsError(f"{path} {what}; expected .safetensors (weights), .onnx or .pt2 (an exported program)")
    if ending != ".safetensors" and not has_example:
        raise SettingsError(
            f"{path} needs an example of the input to export the model with; "
            "expected one (`example_inputs` or `batches`), or .safetensors"
        )
    if ending == ".onnx" and (absent := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        are = "are" if len(absent) > 1 else "is"
        raise SettingsError(
            f"{path} needs {' and '.join(absent)}, which {are} not installed; pip install 'bnkit[onnx]', or write .pt2"
        )
    try:
        if not path.parent.is_dir() or path.is_dir():
            missing = f"{path.parent} is a file" if path.parent.exists() else f"there is no folder {path.parent}"
            reason = "it is a folder" if path.is_dir() else missing
            raise RecordError(f"{path} cannot be written: {reason}; expected a file in a folder that is there")
        for other in map(Path, read_from):
            if path.exists() and other.exists() and path.samefile(other):
                raise SettingsError(f"{path} is what the model is read from; expected another file")
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}); expected another file") from error


def save(model: nn.Module | ExportedProgram, path: str | Path, example_inputs: Any = None) -> bool:
    """Write ``model`` to ``path`` atomically, and return whether an existing file was replaced.

    Before it replaces the file, the new file is loaded again and must compute what ``model`` computes. Weights are
    loaded into a copy of the model. ONNX is run by onnx's reference evaluator, and by onnxruntime if that is installed.
    ONNX and exported programs are run on the example, and with other numbers of rows if the number of rows is free.

    Args:
        model: Not changed. A program of ``torch.export`` can be written as ".onnx" or ".pt2".
        path: The ending selects the format:
            ".safetensors": parameters and buffers, under the keys of the ``state_dict``;
            ".onnx": the model in evaluation mode as ONNX (by ``torch.export``; needs onnx and onnxscript); weights
                above 2 GiB go into a second file next to it; a free number of rows is the dimension ``batch``;
            ".pt2": the model in evaluation mode as ``torch.export.save`` writes it.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords), for ".onnx" and ".pt2". The first
            dimension of each tensor becomes free if it is larger than 1 here and the model allows it. For
            ".safetensors", the input on which outputs are compared; None to compare only tensors.

    Raises:
        SettingsError, RecordError: As ``check_destination``.
        ModelError: The model cannot be written in this format, or the file would compute something else: the message
            says by how much. An existing file is not changed.
    """
    path = Path(path)
    check_destination(path, has_example=example_inputs is not None)
    if isinstance(model, ExportedProgram) and path.suffix == ".safetensors":
        raise SettingsError(f"{path} with an exported program; expected .pt2 or .onnx")
    replaced = path.exists()
    try:
        # Under its final name, in a temporary folder: ONNX and exported programs contain file names.
        with TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
            _WRITERS[path.suffix](model, Path(folder) / path.name, example_inputs)
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}); expected a file that can") from error
    return replaced


def tensors_as_bytes(model: nn.Module) -> bytes:
    """The parameters and buffers of ``model`` as safetensors."""
    # safetensors refuses tensors that share memory; copies of tied weights still load back into the tied module.
    tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in model.state_dict().items()}
    return as_safetensors(tensors)


def _write_weights(model: nn.Module, path: Path, example_inputs: Any) -> None:
    try:
        path.write_bytes(tensors_as_bytes(model))  # save_file makes files that only their owner may read
        prove_weights(model, path, None if example_inputs is None else Example(example_inputs))
    except (OSError, BnkitError):
        raise
    except Exception as error:  # safetensors has its own error class; lazy parameters and extra state raise others
        raise ModelError(
            f"{type(model).__name__} cannot be written as safetensors ({_one_line(error)}); expected tensors alone in its state_dict"
        ) from error


def _write_program(model: nn.Module | ExportedProgram, path: Path, example_inputs: Any) -> None:
    example = Example(example_inputs)
    with _exported(model, example) as (reference, program):
        torch.export.save(program, path)
        prove_program(reference, program, path, example)


def _write_onnx(model: nn.Module | ExportedProgram, path: Path, example_inputs: Any) -> None:
    example = Example(example_inputs)
    with _exported(model, example) as (reference, program):
        size = sum(tensor.numel() * tensor.element_size() for tensor in chain(model.parameters(), model.buffers()))
        converted = torch.onnx.export(program, dynamo=True, verbose=False)
        assert converted is not None
        _name_batch(converted.model, program)
        converted.save(str(path), external_data=size > _MOST_IN_ONNX)
        prove_onnx(reference, program, path, example)


def _name_batch(model: Any, program: ExportedProgram) -> None:
    """In the ONNX ``model``, name the inputs' free first dimension, and those derived from it, ``batch``.

    If inputs may have different numbers of rows, each further dimension is named ``batch_`` plus the name of its input.
    """
    names: dict[str, str] = {}
    for name, rows in free_rows(program).items():
        names.setdefault(str(rows), f"batch_{name}" if names else "batch")
    entries = [entry for node in model.graph.all_nodes() for entry in node.outputs]
    for entry in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values(), *entries):
        for dimension, size in enumerate(entry.shape or ()):
            text = str(getattr(size, "value", None) or "")
            if text.isdecimal():  # the model requires this size
                entry.shape[dimension] = int(text)
            elif set(_SYMBOL.findall(text)) & names.keys():
                entry.shape[dimension] = _SYMBOL.sub(lambda match: names.get(match[0], match[0]), text)


_WRITERS: dict[str, Callable[[Any, Path, Any], None]] = {
    ".safetensors": _write_weights,
    ".onnx": _write_onnx,
    ".pt2": _write_program,
}


@contextmanager
def _exported(model: nn.Module | ExportedProgram, example: Example) -> Iterator[tuple[nn.Module, ExportedProgram]]:
    """``model`` in evaluation mode, as a module and as a program; errors become one line, warnings are hidden."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # from torch's own code
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            if isinstance(model, ExportedProgram):
                yield model.module(), model
                return
            stack.enter_context(preserve_model(model))
            model.eval()
            yield model, _program(model, example.fresh())
    except (OSError, BnkitError):
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be exported: {_one_line(error)}; expected a model that torch.export takes, or .safetensors"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _program(model: nn.Module, example: Example) -> ExportedProgram:
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for _, tensor in tensors_in(example):
        if tensor.dim() > 0 and tensor.shape[0] > 1:
            shapes[tensor] = {0: Dim.AUTO}
    try:
        sizes = shapes.dynamic_shapes(model, example.arguments, example.keywords)  # type: ignore[no-untyped-call]
        return torch.export.export(model, example.arguments, example.keywords, dynamic_shapes=sizes)
    except Exception:
        # Retry with the fixed sizes of the example; if free sizes were not the cause, this raises the same error.
        return torch.export.export(model, example.arguments, example.keywords)


def _one_line(error: Exception) -> str:
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error))  # the ONNX exporter colours its messages
    return f"{type(error).__name__}: {' '.join(text.split())[:_TOLD]}"
