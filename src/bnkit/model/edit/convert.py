"""Convert the batch norms of a model to another kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from bnkit.errors import ModelError, SettingsError
from bnkit.model.change_list import UNCHANGED, Change, Changed, Changes
from bnkit.model.edit import lazy
from bnkit.model.edit.deepcopy_model import deepcopy_model, replace_module
from bnkit.model.edit.fuse import fuse, unfuse
from bnkit.model.edit.fuse_plan import plan_fusion
from bnkit.model.edit.replace import Replacement, ReplacementKind, describe, replace_with
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.inspect.recognise_batch_norm import (
    BatchNormLike,
    BatchNormSite,
    Unrecognized,
    batch_norm_sites,
    identify,
    matching_names,
    no_batch_norm,
)
from bnkit.model.inspect.trace import Trace, trace
from bnkit.model.layers.deferred_fusion import Deferring
from bnkit.model.layers.frozen_mixin import bare_class
from bnkit.model.preserve_state import isolate_from_ambient_modes
from bnkit.model.verify.verify_changed_model import check_comparable, error_of, exact_output, output_of
from bnkit.nn import batch_norm as ours

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

How = Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]


@isolate_from_ambient_modes
def convert(
    model: nn.Module,
    to: ReplacementKind = "bnkit",
    *,
    example_inputs: Any = None,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    how: How | None = None,
    process_group: ProcessGroup | None = None,
    num_groups: int = 32,
    dimensions: Literal[1, 2, 3] | None = None,
) -> Changed:
    """Return a copy of ``model`` with its batch norms converted to another kind, and the changes.

    ``model`` is not changed. In the copy, each batch norm keeps its names, gamma, beta (tied parameters stay tied),
    running statistics, counter, momentum, eps, activation, dtype, device, mode, hooks, and whether it is frozen; a
    shared layer stays shared. Between "bnkit", "torch" and "sync" the keys of the ``state_dict`` stay the same. Layers
    that are already of the requested kind are kept.

    With an example, bnkit's layers are fused with the operations that follow them: an activation that they support by
    name, a sum, or a sum and an activation, if no other operation reads the intermediate result. The fused network is
    first compared with the unfused one: outputs, gradients and buffers of a training step and of an evaluation.

    Layers are recognised by what they compute, so layers of other libraries with a built-in activation, and frozen
    layers, are converted too. A class that computes something else is refused by name.

    Args:
        model: Any model, or a batch norm itself.
        to: The kind of the new layers:
            "bnkit": the layers of ``bnkit.nn``, each process with its own statistics;
            "sync": the same, with statistics over all processes;
            "torch": the layers of ``torch.nn``; with an activation, a small subclass that applies it;
            "group_norm": ``torch.nn.GroupNorm`` with gamma and beta, without running statistics;
            "instance_norm": an instance norm with gamma and beta, without running statistics.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords) that ``model`` takes. If
            None, the network is not run, and nothing is fused or compared. Between "bnkit", "torch" and "sync", the
            outputs on the example must stay the same.
        include, exclude: Patterns for dotted names, such as ``"layer1.*"``, to select and to leave out.
        how: A dictionary from classes (exact, not subclasses) to functions that make a new module from each of their
            modules. The function receives the module of the copy, and takes precedence over all other rules.
        process_group: With "sync": the processes; None for all, or for the group that a layer already has.
        num_groups: With "group_norm". If it does not divide a layer's channels, the largest smaller number that does is
            used, with at least two channels a group.
        dimensions: The rank of the layers that replace ``torch.nn.SyncBatchNorm``, which takes inputs of any rank: 2
            for ``BatchNorm2d``. None for a layer that takes any rank, too.

    Raises:
        ModelError: A layer cannot be converted, there is no batch norm, the model raises on the example, or the result
            computes something else.
        SettingsError: An argument is invalid.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> converted, changes = convert(model, to="sync")
        >>> print(changes)
        site  action     detail
        1     converted  torch.nn.BatchNorm2d to bnkit.nn.BatchNorm2d, synchronised
        1 changed, 0 kept
    """
    replacement = Replacement(to, process_group, num_groups, dimensions)
    functions = _check_how(how)
    example = None if example_inputs is None else Example(example_inputs)
    twin = deepcopy_model(model)
    run = None if example is None else trace(twin, example)
    known = {site.module: site for site in batch_norm_sites(twin)}
    sites = {
        module: names
        for module, names in _names(twin).items()
        if module in known or bare_class(module) in functions or _is_kind(module, to)
    }
    if not sites:
        raise no_batch_norm(model)
    picked = matching_names(list(sites.values()), include, exclude)
    _refuse([known[m] for m, names in sites.items() if names[0] in picked and m in known], to, tuple(functions))
    changes: list[Change] = []
    for module, names in sites.items():
        if names[0] not in picked:
            action, detail = UNCHANGED, "left out by include or exclude"
        elif bare_class(module) in functions:
            twin, action, detail = _replace_by_function(twin, module, functions[bare_class(module)])
        elif module not in known:
            action, detail = UNCHANGED, f"is {describe(module)} already"
        else:
            if to != "bnkit":
                unfuse(twin, module, keeps_activation=to == "sync")
            action, detail = _convert_layer(module, identify(module) or known[module].recognised_as, replacement)
        also = f"; also at {', '.join(names[1:])}" if len(names) > 1 else ""
        changes.append(Change(names[0], action, detail + also))
    if run is None or example is None:
        return Changed(twin, Changes(changes))
    if to == "bnkit":
        changes = _fuse(twin, changes, picked, run, example)
    return Changed(twin, Changes(changes, _check_outputs(twin, run, example, to)))


def _fuse(model: nn.Module, changes: list[Change], picked: set[str], run: Trace, example: Example) -> list[Change]:
    """Fuse the ``picked`` batch norms with what follows them; returns the changes, with a note on each fusion."""
    wanted = [
        change.site
        for change in changes
        if change.site in picked
        and isinstance(norm := model.get_submodule(change.site), ours._BatchNorm)
        and norm.activation is None
        and not isinstance(norm, Deferring)
    ]
    plans = {name: plan_fusion(model, run, name) for name in wanted}
    done, why_not = fuse(model, {name: plan for name, plan in plans.items() if not isinstance(plan, str)}, example)
    noted = []
    for change in changes:
        plan, action, detail = plans.get(change.site), change.action, change.detail
        if change.site in done:
            action = change.action if change.is_made else "fused"
            detail = f"{detail}; {done[change.site].detail}"
        elif plan is not None:
            detail = f"{detail}; not fused: {plan if isinstance(plan, str) else why_not}"
        noted.append(Change(change.site, action, detail))
    return noted


def _check_outputs(model: nn.Module, run: Trace, example: Example, to: str) -> float | None:
    """The difference of the outputs of a converted ``model`` from those before; None if they may differ."""
    done = f"with its batch norms converted to {to}"
    after = output_of(model, example, done)
    if to not in ("bnkit", "torch", "sync"):
        return None
    check_comparable(run.output, model)
    return error_of(run.output, after, model, done, lambda: exact_output(model, example))


def _check_how(how: Any) -> dict[type[nn.Module], Callable[[nn.Module], nn.Module]]:
    """``how`` as a dictionary.

    Raises:
        SettingsError: It is not a dictionary from classes to functions.
    """
    if how is None:
        return {}
    if not isinstance(how, Mapping):
        raise SettingsError(f"how is a {type(how).__name__}; expected a dictionary of functions by classes of layers")
    for kind, function in how.items():
        if not isinstance(kind, type) or not callable(function):
            raise SettingsError(
                f"how holds {kind!r}: {function!r}; expected a class of layers, and a function that makes a module of one"
            )
    return dict(how)


def _convert_layer(module: nn.Module, like: BatchNormLike | Unrecognized, replacement: Replacement) -> tuple[str, str]:
    if isinstance(module, LazyModuleMixin) and isinstance(like, Unrecognized):
        return lazy.replace_with(module, replacement)
    if isinstance(like, Unrecognized):
        return UNCHANGED, f"is a {bare_class(module).__name__}, which {like.reason}"
    return replace_with(module, like, replacement)


def _refuse(matching: list[BatchNormSite], to: str, functions: tuple[type[nn.Module], ...]) -> None:
    """Raise for the first class that cannot be converted, with the names of all its layers."""
    refused: dict[type[nn.Module], list[str]] = {}
    reasons: dict[type[nn.Module], str] = {}
    for site in matching:
        kind, reason = bare_class(site.module), _obstacle(site, to)
        if reason is not None and kind not in functions:
            refused.setdefault(kind, []).append(site.name or "(the model)")
            reasons.setdefault(kind, reason)
    for kind, names in refused.items():
        where = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        raise ModelError(
            f"{where}: {kind.__name__}, which {reasons[kind]}; expected what a batch norm and an activation compute: say how "
            f"it is to be converted with how={{{kind.__name__}: function}}, or leave it out with `exclude`"
        )


def _obstacle(site: BatchNormSite, to: str) -> str | None:
    like = site.recognised_as
    if isinstance(like, BatchNormLike):
        return like.obstacle
    if like.is_lazy:
        is_ready = to in ("bnkit", "torch", "sync") and lazy.is_known(site.module)
        return None if is_ready else like.reason
    return like.reason if like.is_subclass else None


def _replace_by_function(
    model: nn.Module, module: nn.Module, function: Callable[[nn.Module], nn.Module]
) -> tuple[nn.Module, str, str]:
    """The model with ``module`` replaced by the result of ``function``, and the action and detail of the change."""
    before = type(module).__name__
    replacement_module = function(module)
    if not isinstance(replacement_module, nn.Module):
        raise ModelError(f"how[{before}] returned a {type(replacement_module).__name__}; expected an nn.Module")
    if replacement_module is module:
        return model, UNCHANGED, f"left as it is by how[{before}]"
    replacement_module.train(module.training)
    if all(part is not module for part in replacement_module.modules()):  # it may wrap it
        for name, hooks in vars(module).items():
            if name.endswith(("hooks", "hooks_with_kwargs", "hooks_always_called")) and hooks:
                vars(replacement_module)[name].update(hooks)
    return (
        replace_module(model, module, replacement_module),
        "converted",
        f"{before} to {type(replacement_module).__name__}, by how",
    )


def _is_kind(module: nn.Module, to: str) -> bool:
    return isinstance(module, {"group_norm": nn.GroupNorm, "instance_norm": _InstanceNorm}.get(to, ()))


def _names(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    names: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[module] = (*names.get(module, ()), name)
    return names
