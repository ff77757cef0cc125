"""Recognise batch norms of any library by their class and their behaviour."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from bnkit.errors import ModelError
from bnkit.kernels.activation import MODULES
from bnkit.model.inspect.name_patterns import Patterns, matching
from bnkit.model.inspect.probe_batch_norm import behaviour, waits_for_processes
from bnkit.model.inspect.supported_models import check_supported, is_script
from bnkit.model.layers.activated import ACTIVATED, OURS, PLAIN
from bnkit.model.layers.frozen_mixin import Frozen, bare_class
from bnkit.nn import batch_norm as ours

# The classes whose behaviour is known, with their dimensions. Exact classes only: a subclass may compute anything.
KNOWN: dict[type[nn.Module], int | None] = {
    **{kind: dimensions for table in (OURS, PLAIN, ACTIVATED) for dimensions, kind in table.items()},
    nn.SyncBatchNorm: None,
    nn.LazyBatchNorm1d: 1,
    nn.LazyBatchNorm2d: 2,
    nn.LazyBatchNorm3d: 3,
}
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_STATE = (*_TENSORS, "num_batches_tracked")


@dataclass(frozen=True, eq=False)
class BatchNormLike:
    """A module that computes, in evaluation mode, ``activation((x - mean) / sqrt(variance + eps) * weight + bias)``.

    The tensors are the module's own, not copies.

    Attributes:
        channels: The number of channels.
        mean, variance: The running statistics; None if it has none, and normalises by the batch in evaluation too.
        weight, bias: gamma and beta; None for 1 and 0.
        eps: The number added to the variance; 0 if the variance includes it already.
        momentum: The momentum of the running statistics; None for the cumulative average. For a class that is always
            frozen and has no momentum, the usual 0.1.
        affine: Whether it has gamma or beta.
        tracks_statistics: Whether training moves the running statistics (if nothing is frozen).
        activation: The activation that it applies: None, a name that bnkit's layers support, or a child module.
        activation_name: The name of that child module; None otherwise.
        dimensions: 1, 2 or 3, as in ``BatchNorm2d``; None if it takes inputs of any rank.
        is_frozen: Whether it computes the same in training mode, without updating its statistics.
        obstacle: Further behaviour or content, because of which another layer cannot replace it; None if there is none.
    """

    channels: int
    mean: Tensor | None
    variance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    momentum: float | None
    affine: bool
    tracks_statistics: bool
    activation: str | nn.Module | None
    activation_name: str | None
    dimensions: int | None
    is_frozen: bool
    obstacle: str | None


@dataclass(frozen=True)
class Unrecognized:
    """A module that looks like a batch norm but could not be verified as one.

    Attributes:
        reason: Why, as the end of a clause that begins with "which": "raises TypeError on an input of shape (32, 3, 2,
            1)".
        is_subclass: Whether it is a subclass of PyTorch's batch norm, so that other tools treat it as one.
        is_lazy: Whether it has not seen an input yet, and can be recognised after that.
    """

    reason: str
    is_subclass: bool
    is_lazy: bool = False


@dataclass(frozen=True)
class BatchNormSite:
    """A module of a model that is a batch norm or looks like one.

    Attributes:
        names: Its dotted names: a shared module has several.
        module: The module.
        recognised_as: The recognised batch norm, or why it was not recognised.
    """

    names: tuple[str, ...]
    module: nn.Module
    recognised_as: BatchNormLike | Unrecognized

    @property
    def name(self) -> str:
        """The first of the names."""
        return self.names[0]


def recognise(module: nn.Module) -> BatchNormLike | None:
    """The batch norm that ``module`` itself (not a child) is; None if it is not one. ``identify`` gives the reason.

    The layers of PyTorch and bnkit are known. For a subclass, or a module with 1-d ``weight``, ``bias``,
    ``running_mean`` and ``running_var``, a copy is called; the module, its hooks and the random state are not affected.

    Examples:
        >>> norm = recognise(nn.SyncBatchNorm(4, eps=1e-3))
        >>> norm.channels, norm.eps, norm.dimensions, norm.activation
        (4, 0.001, None, None)
        >>> recognise(nn.ReLU())
    """
    identified = identify(module)
    return identified if isinstance(identified, BatchNormLike) else None


def identify(module: nn.Module) -> BatchNormLike | Unrecognized | None:
    """Like ``recognise``, but with the reason if a module looks like a batch norm without being one."""
    if not _looks_like_one(module):
        return None
    is_subclass = isinstance(module, _BatchNorm)
    kind = bare_class(module)
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return Unrecognized("has not seen an input yet; run the model once", is_subclass, is_lazy=True)
    if "forward" in vars(module):
        # In a copy, a closure over the module would still use the original.
        return Unrecognized("had its forward replaced", is_subclass)
    return _identify_by_class(module, KNOWN[kind]) if kind in KNOWN else _identify_by_probing(module, kind)


def as_module(activation: str | nn.Module | None) -> nn.Module:
    """``activation`` as a module: unchanged, PyTorch's module for a name, or the identity for None."""
    if activation is None:
        return nn.Identity()
    return MODULES[activation]() if isinstance(activation, str) else activation


def batch_norm_sites(model: nn.Module) -> list[BatchNormSite]:
    """The modules of ``model``, itself included, that are or look like batch norms, in order, each once."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    identified = ((tuple(known), module, identify(module)) for module, known in names.items())
    return [BatchNormSite(known, module, like) for known, module, like in identified if like is not None]


def required_batch_norm_sites(model: nn.Module) -> list[BatchNormSite]:
    """Like ``batch_norm_sites``, but raises if there are none.

    Raises:
        SettingsError: ``model`` is not a module.
        ModelError: There are none, or the kind of model is not supported.
    """
    check_supported(model)
    sites = batch_norm_sites(model)
    if not sites:
        raise no_batch_norm(model)
    return sites


def no_batch_norm(model: nn.Module, has: str = "holds", expected: str = "one (bnkit.add puts them in)") -> ModelError:
    """The error for a model without batch norm; its message names a TorchScript part that may contain some."""
    scripts = [name for name, module in model.named_modules() if is_script(module)]
    outside = f" outside of {scripts[0]!r}, which is TorchScript and cannot be changed" if scripts else ""
    return ModelError(f"{type(model).__name__} {has} no batch norm{outside}; expected a model with {expected}")


def matching_names(names: list[tuple[str, ...]], include: Patterns | None, exclude: Patterns | None) -> set[str]:
    """The first names of those modules that have an included name and no excluded name.

    Raises:
        SettingsError: A pattern matches no name.
    """
    flat = [name for several in names for name in several]
    wanted, left = set(matching(flat, include, None)), set(matching(flat, None, exclude))
    return {several[0] for several in names if wanted.intersection(several) and left.issuperset(several)}


def _looks_like_one(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return True
    # Instance norms have the same tensors with another meaning. Modules of TorchScript cannot be replaced.
    if isinstance(module, (_InstanceNorm, nn.ModuleList)) or is_script(module):
        return False
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    tensors = [own[name] for name in _TENSORS if name in own and not is_lazy(own[name])]
    return len(tensors) == len(_TENSORS) and all(t.dim() == 1 and t.shape == tensors[0].shape for t in tensors)


def _identify_by_probing(module: nn.Module, kind: type[nn.Module]) -> BatchNormLike | Unrecognized:
    probed = behaviour(module, is_synchronised=waits_for_processes(module))
    if isinstance(probed, str):
        return Unrecognized(probed, isinstance(module, _BatchNorm))
    activation = probed.activation if probed.child is None else module.get_submodule(probed.child)
    return _like(
        module,
        eps=probed.eps,
        activation=activation,
        dimensions=next((d for d, layer in PLAIN.items() if d and isinstance(module, layer)), probed.dimensions),
        is_frozen=probed.is_frozen or isinstance(module, Frozen),
        obstacle=probed.difference or _more_arguments(kind) or _more_state(module, activation),
    )


def _identify_by_class(module: nn.Module, dimensions: int | None) -> BatchNormLike | Unrecognized:
    assert isinstance(module, _BatchNorm)
    if not _channels(module):
        return Unrecognized("does not know its number of channels", is_subclass=True)
    activation = getattr(module, "activation", None)
    return _like(
        module,
        eps=module.eps,
        activation=activation,
        dimensions=dimensions,
        is_frozen=isinstance(module, Frozen),
        obstacle=_more_state(module, activation),
    )


def _like(
    module: nn.Module,
    *,
    eps: float,
    activation: str | nn.Module | None,
    dimensions: int | None,
    is_frozen: bool,
    obstacle: str | None,
) -> BatchNormLike:
    mean, variance, weight, bias = (
        getattr(module, name, None) for name in ("running_mean", "running_var", "weight", "bias")
    )
    return BatchNormLike(
        channels=_channels(module),
        mean=mean,
        variance=variance,
        weight=weight,
        bias=bias,
        eps=eps,
        momentum=getattr(module, "momentum", 0.1),
        affine=weight is not None or bias is not None,
        tracks_statistics=bool(getattr(module, "track_running_stats", mean is not None)),
        activation=activation,
        activation_name=next((name for name, child in module._modules.items() if child is activation), None),
        dimensions=dimensions,
        is_frozen=is_frozen,
        obstacle=obstacle,
    )


def _channels(module: nn.Module) -> int:
    """The number of channels, from the tensors: a lazy layer filled by ``load_state_dict`` has ``num_features`` 0."""
    tensors = (getattr(module, name, None) for name in _TENSORS)
    return next((tensor.numel() for tensor in tensors if tensor is not None), int(getattr(module, "num_features", 0)))


def _more_arguments(kind: type[nn.Module]) -> str | None:
    arguments = [
        argument.name
        for argument in list(inspect.signature(kind.forward).parameters.values())[2:]
        if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
    ]
    return f"takes more than the input: {', '.join(arguments)}" if arguments else None


def _more_state(module: nn.Module, activation: str | nn.Module | None) -> str | None:
    known = (*_STATE, "num_batches_skipped") if isinstance(module, ours._BatchNorm) else _STATE
    own = {**module._parameters, **module._buffers}
    more = [name for name, tensor in own.items() if tensor is not None and name not in known]
    more += [
        name
        for name, child in module.named_children()
        if child is not activation and any(True for _ in (*child.parameters(), *child.buffers()))
    ]
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        more.append("extra state")
    if more:
        return f"holds {', '.join(more)} besides"
    loose = [name for name in _TENSORS if isinstance(vars(module).get(name), Tensor)]
    return f"keeps its {loose[0]} as neither a parameter nor a buffer" if loose else None
