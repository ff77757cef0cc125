"""Turn a batch norm into a layer of another kind: the same object gets another class and the attributes of that class.

Since the object stays the same, all references to it stay valid: parents, plain lists, hooks.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from bnkit.argument_checks import check_int, check_process_group
from bnkit.errors import SettingsError
from bnkit.message_parts import did_you_mean
from bnkit.model.change_list import UNCHANGED
from bnkit.model.inspect.recognise_batch_norm import KNOWN, BatchNormLike
from bnkit.model.layers.activated import (
    ACTIVATED,
    OURS,
    PLAIN,
    ActivatedGroupNorm,
    AnyRankInstanceNorm,
    CheckedGroupNorm,
)
from bnkit.model.layers.frozen_mixin import ATTRIBUTES, MODE, REQUIRES_GRAD, Frozen, bare_class
from bnkit.model.layers.put_mixin_before_class import mix_in
from bnkit.nn import batch_norm as ours

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ReplacementKind = Literal["bnkit", "torch", "sync", "group_norm", "instance_norm"]

_INSTANCE: dict[int | None, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
# The attributes that every module creates in its constructor.
_OF_MODULES = set(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
# The arguments that only bnkit's layers have.
_EXTRAS = {
    name: argument.default
    for name, argument in inspect.signature(ours._BatchNorm.__init__).parameters.items()
    if argument.kind is argument.KEYWORD_ONLY and name not in ("bias", "activation")
}


@dataclass(frozen=True)
class Replacement:
    """The kind of the new layers: the arguments of ``convert``.

    Raises:
        SettingsError: An argument is invalid.
    """

    kind: str
    process_group: ProcessGroup | None
    num_groups: int
    dimensions: int | None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ReplacementKind):
            kinds = get_args(ReplacementKind)
            raise SettingsError(f"to={self.kind!r}; expected one of {', '.join(kinds)}{did_you_mean(self.kind, kinds)}")
        if self.process_group is not None and self.kind != "sync":
            raise SettingsError(f"a process_group with to={self.kind!r}; expected one only with to='sync'")
        check_process_group(self.process_group)
        if self.dimensions is not None and (type(self.dimensions) is not int or self.dimensions not in (1, 2, 3)):
            raise SettingsError(f"dimensions={self.dimensions!r}; expected 1, 2, 3 or None")
        check_int("num_groups", self.num_groups)

    def extras(self, module: nn.Module) -> dict[str, Any]:
        """The arguments that only bnkit's layers have: the values of ``module``, and ``sync`` and ``process_group``."""
        extras = {name: getattr(module, name, default) for name, default in _EXTRAS.items()}
        is_sync = self.kind == "sync"
        group = self.process_group if self.process_group is not None else extras["process_group"]
        return {**extras, "sync": is_sync, "process_group": group if is_sync else None}


def replace_with(module: nn.Module, like: BatchNormLike, replacement: Replacement) -> tuple[str, str]:
    """Turn ``module``, recognised as ``like``, into the ``replacement`` kind; returns the action and the detail."""
    if (kept := _why_unchanged(module, like, replacement)) is not None:
        return UNCHANGED, kept
    before, lost = _class_name(bare_class(module)), _losses(module, like, replacement)
    built = _build(module, like, replacement)
    is_frozen = like.is_frozen and replacement.kind in ("bnkit", "torch", "sync")
    if isinstance(module, LazyModuleMixin):  # loaded by load_state_dict, but not run yet
        vars(module)["_initialize_hook"].remove()
        vars(module)["_load_hook"].remove()
    carried = {name: value for name, value in vars(module).items() if name in _OF_MODULES | _of_the_user(module)}
    if is_frozen:
        # In an always frozen class, gamma and beta may be buffers: they become trainable when the layer is unfrozen.
        held = {name: True for name in ("weight", "bias") if module._buffers.get(name) is not None}
        carried[REQUIRES_GRAD] = vars(module).get(REQUIRES_GRAD, held)
        carried[MODE] = vars(module).get(MODE, module.training)
    content = {**vars(built), **carried}
    vars(module).clear()
    vars(module).update(content)
    module.__class__ = type(built)
    if is_frozen:
        mix_in(module, Frozen)
        module.training = False
    return "converted", "; ".join((f"{before} to {describe(module)}", *lost))


def _why_unchanged(module: nn.Module, like: BatchNormLike, replacement: Replacement) -> str | None:
    """Why ``module`` need not change; None if it must."""
    kind = bare_class(module)
    is_of_rank = replacement.dimensions is None or like.dimensions is not None
    if isinstance(module, ours._BatchNorm):
        if replacement.kind not in ("bnkit", "sync") or not is_of_rank:
            return None
        same = (module.sync, module.process_group) == (
            replacement.extras(module)["sync"],
            replacement.extras(module)["process_group"],
        )
        return f"is {describe(module)} already" if same else None
    is_torch = kind in (*PLAIN.values(), *ACTIVATED.values())
    return f"is {describe(module)} already" if replacement.kind == "torch" and is_torch and is_of_rank else None


def _build(module: nn.Module, like: BatchNormLike, replacement: Replacement) -> nn.Module:
    """A new layer of the ``replacement`` kind with the content of ``module``."""
    dimensions = like.dimensions if like.dimensions is not None else replacement.dimensions
    own = {**module._parameters, **module._buffers}
    device = next((tensor.device for tensor in own.values() if tensor is not None), None)
    # Without tensors; they are taken from the module.
    arguments = (like.channels, like.eps, like.momentum, False, False, device)
    built: nn.Module
    if replacement.kind in ("bnkit", "sync"):
        built = OURS[dimensions](*arguments, **replacement.extras(module))
        skipped = own.get("num_batches_skipped")
        if skipped is not None:
            built.num_batches_skipped = skipped
    elif replacement.kind == "torch":
        built = (PLAIN if like.activation is None else ACTIVATED)[dimensions](*arguments)
    elif replacement.kind == "group_norm":
        count = groups(like.channels, int(replacement.num_groups))
        alone = CheckedGroupNorm if count == like.channels else nn.GroupNorm
        kind = alone if like.activation is None else ActivatedGroupNorm
        built = kind(count, like.channels, like.eps, affine=False)
    else:
        instance = (
            AnyRankInstanceNorm if like.activation is not None else _INSTANCE.get(dimensions, AnyRankInstanceNorm)
        )
        built = instance(like.channels, like.eps)
    for name in ("weight", "bias"):
        built._parameters[name] = _parameter(own.get(name))
    flags = {"affine": bool(getattr(module, "affine", like.affine))}
    if replacement.kind in ("bnkit", "sync", "torch"):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            built._buffers[name] = own.get(name)
        flags["track_running_stats"] = like.tracks_statistics
    vars(built).update(flags)
    _attach_activation(built, like)
    return built


def _attach_activation(built: nn.Module, like: BatchNormLike) -> None:
    """Make ``built`` apply the activation; an activation with weights keeps its name."""
    if like.activation is None:
        return
    has_weights = isinstance(like.activation, nn.Module) and any(like.activation.state_dict())
    if has_weights and like.activation_name not in (None, "activation"):
        vars(built)["activation"] = like.activation  # not as a submodule, which would give it two names
        built._modules[str(like.activation_name)] = like.activation  # type: ignore[assignment]
    else:
        setattr(built, "activation", like.activation)  # noqa: B010 - which class of layer it is, mypy cannot see


def groups(channels: int, wanted: int) -> int:
    """``wanted`` if it divides ``channels``; otherwise the next smaller divisor, with at least two channels a group.

    Examples:
        >>> groups(64, 32), groups(48, 32), groups(16, 32), groups(7, 32)
        (32, 24, 8, 1)
    """
    if channels % wanted == 0:
        return wanted
    return next((count for count in range(min(wanted, channels // 2), 0, -1) if channels % count == 0), 1)


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    # In a layer that its class freezes, they are buffers.
    if tensor is None or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)


def _of_the_user(module: nn.Module) -> set[str]:
    """The attributes that a user set on a layer: those that its class does not define."""
    kind = bare_class(module)
    if kind not in KNOWN:  # attributes of its class, which other layers do not use
        return set()
    reference = kind(1) if not issubclass(kind, LazyModuleMixin) else kind()
    return set(vars(module)) - set(vars(reference)) - set(ATTRIBUTES)


def _losses(module: nn.Module, like: BatchNormLike, replacement: Replacement) -> list[str]:
    """What is lost in the conversion, in words."""
    lost = []
    if isinstance(module, ours._BatchNorm):
        values = {name: getattr(module, name) for name, default in _EXTRAS.items() if getattr(module, name) != default}
        values.pop("process_group", None)
        if replacement.kind in ("bnkit", "sync"):
            values = {"sync": True} if replacement.kind == "bnkit" and module.sync else {}
        lost = [f"{name}={value!r}" for name, value in values.items()]
    elif isinstance(module, nn.SyncBatchNorm) and replacement.kind in ("bnkit", "torch"):
        lost = ["the synchronisation"]
    if replacement.kind in ("group_norm", "instance_norm") and like.mean is not None:
        lost.append("the running statistics")
    return [f"loses {' and '.join(lost)}"] if lost else []


def describe(layer: nn.Module) -> str:
    """A description of ``layer`` for a list of changes: its class and its main settings."""
    text = _class_name(bare_class(layer))
    if isinstance(layer, nn.GroupNorm):
        text += f" of {layer.num_groups} groups"
    activation = getattr(layer, "activation", None)
    if activation is not None:
        text += f" with {activation if isinstance(activation, str) else type(activation).__name__}"
    if getattr(layer, "sync", False):
        text += ", synchronised"
    return f"{text}, frozen" if isinstance(layer, Frozen) else text


def _class_name(kind: type) -> str:
    home = next((home for home in ("torch.nn", "bnkit.nn") if kind.__module__.startswith(f"{home}.")), "")
    return f"{home}.{kind.__name__}" if home else kind.__name__
