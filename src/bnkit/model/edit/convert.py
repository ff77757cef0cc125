"""Batch norms of another kind in the same places of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from bnkit.errors import ModelError, SettingsError
from bnkit.model.changes import KEPT, Change, Changed, Changes
from bnkit.model.edit import lazy
from bnkit.model.edit.copy import copy_of, exchange
from bnkit.model.edit.replace import Kind, Target, become, described
from bnkit.model.inspect.patterns import Patterns
from bnkit.model.inspect.recognise import BatchNormLike, NotRecognised, Place, chosen_names, no_batch_norm, places
from bnkit.model.layers.frozen import bare_class
from bnkit.model.surroundings import apart_from_surroundings

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

How = Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]


@apart_from_surroundings
def convert(
    model: nn.Module,
    to: Kind = "bnkit",
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    how: How | None = None,
    process_group: ProcessGroup | None = None,
    num_groups: int = 32,
    dimensions: Literal[1, 2, 3] | None = None,
) -> Changed:
    """A copy of ``model`` whose batch norms are of another kind, and the list of what was changed.

    The model given stays as it was. In the copy, each batch norm keeps its names, gamma, beta (the same parameters: tied
    ones stay tied), running statistics, counter, momentum, eps, activation, dtype, device, mode, hooks, and whether it is
    frozen; one that is used in several places is one layer still. Between "bnkit", "torch" and "sync" the keys of the
    ``state_dict`` stay the same. A model that is converted already comes back the same.

    Layers are recognised by what they compute, so that those of other libraries with an activation inside, and frozen
    ones, are converted too. A class that computes something else is refused by name.

    Args:
        model: Any model, or a batch norm itself.
        to: What the batch norms become:
            "bnkit": ``bnkit.nn``'s, each process with its own statistics;
            "sync": the same, with the statistics of all processes;
            "torch": ``torch.nn``'s; where there is an activation, a small subclass that applies it;
            "group_norm": ``torch.nn.GroupNorm`` with gamma and beta; there are no running statistics then;
            "instance_norm": the same with an instance norm.
        include, exclude: Patterns for dotted names, as ``"layer1.*"``: only these, not those.
        how: For a class (itself, not its subclasses), what makes a new module of each of its modules. It is given the
            module of the copy, and goes before everything else.
        process_group: With "sync": the processes; None for all, or for those that a layer has already.
        num_groups: With "group_norm". Where it does not divide a layer's channels, the largest smaller number that does,
            with at least two channels to a group.
        dimensions: What ``torch.nn.SyncBatchNorm`` becomes, which takes inputs of any rank: 2 for ``BatchNorm2d``. None
            for a layer that takes any rank as well.

    Raises:
        ModelError: A layer cannot be converted, or there is none.
        SettingsError: An argument that means nothing here.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> converted, changes = convert(model, to="sync")
        >>> print(changes)
        site  action     detail
        1     converted  torch.nn.BatchNorm2d to bnkit.nn.BatchNorm2d, synchronised
        1 changed, 0 kept
    """
    target = Target(to, process_group, num_groups, dimensions)
    told = _checked(how)
    twin = copy_of(model)
    known = {place.module: place for place in places(twin)}
    sites = {
        module: names
        for module, names in _names(twin).items()
        if module in known or bare_class(module) in told or _is_made(module, to)
    }
    if not sites:
        raise no_batch_norm(model)
    picked = chosen_names(list(sites.values()), include, exclude)
    _refuse([known[m] for m, names in sites.items() if names[0] in picked and m in known], to, tuple(told))
    changes: list[Change] = []
    for module, names in sites.items():
        if names[0] not in picked:
            action, detail = KEPT, "left out by include or exclude"
        elif bare_class(module) in told:
            twin, action, detail = _told(twin, module, told[bare_class(module)])
        elif module not in known:
            action, detail = KEPT, f"is {described(module)} already"
        else:
            action, detail = _converted(module, known[module].found, target)
        also = f"; also at {', '.join(names[1:])}" if len(names) > 1 else ""
        changes.append(Change(names[0], action, detail + also))
    return Changed(twin, Changes(changes))


def _checked(how: Any) -> dict[type[nn.Module], Callable[[nn.Module], nn.Module]]:
    """A dictionary of ``how``.

    Raises:
        SettingsError: It is something else than functions by classes.
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


def _converted(module: nn.Module, found: BatchNormLike | NotRecognised, target: Target) -> tuple[str, str]:
    if isinstance(module, LazyModuleMixin) and isinstance(found, NotRecognised):
        return lazy.become(module, target)
    if isinstance(found, NotRecognised):
        return KEPT, f"is a {bare_class(module).__name__}, which {found.reason}"
    return become(module, found, target)


def _refuse(chosen: list[Place], to: str, told: tuple[type[nn.Module], ...]) -> None:
    """Raise for the first of the classes that cannot be converted, with all the places where it stands."""
    refused: dict[type[nn.Module], list[str]] = {}
    reasons: dict[type[nn.Module], str] = {}
    for place in chosen:
        kind, reason = bare_class(place.module), _obstacle(place, to)
        if reason is not None and kind not in told:
            refused.setdefault(kind, []).append(place.name or "(the model)")
            reasons.setdefault(kind, reason)
    for kind, names in refused.items():
        where = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        raise ModelError(
            f"{where}: {kind.__name__}, which {reasons[kind]}; expected what a batch norm and an activation compute: say how "
            f"it is to be converted with how={{{kind.__name__}: function}}, or leave it out with exclude"
        )


def _obstacle(place: Place, to: str) -> str | None:
    found = place.found
    if isinstance(found, BatchNormLike):
        return found.obstacle
    if found.is_lazy:
        is_ready = to in ("bnkit", "torch", "sync") and lazy.is_known(place.module)
        return None if is_ready else found.reason
    return found.reason if found.is_subclass else None


def _told(
    model: nn.Module, module: nn.Module, function: Callable[[nn.Module], nn.Module]
) -> tuple[nn.Module, str, str]:
    """The model with what ``function`` makes of ``module`` in its place, and what to say of it."""
    before = type(module).__name__
    made = function(module)
    if not isinstance(made, nn.Module):
        raise ModelError(f"how[{before}] returned a {type(made).__name__}; expected an nn.Module")
    if made is module:
        return model, KEPT, f"left as it is by how[{before}]"
    made.train(module.training)
    if all(part is not module for part in made.modules()):  # it may wrap it
        for name, hooks in vars(module).items():
            if name.endswith(("hooks", "hooks_with_kwargs", "hooks_always_called")) and hooks:
                vars(made)[name].update(hooks)
    return exchange(model, module, made), "converted", f"{before} to {type(made).__name__}, by how"


def _is_made(module: nn.Module, to: str) -> bool:
    return isinstance(module, {"group_norm": nn.GroupNorm, "instance_norm": _InstanceNorm}.get(to, ()))


def _names(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    names: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names[module] = (*names.get(module, ()), name)
    return names
