"""Freeze batch norms while the rest of a model trains."""

from __future__ import annotations

from torch import nn

from bnkit.argument_checks import check_bool
from bnkit.errors import ModelError
from bnkit.model.change_list import UNCHANGED, Change, Changes
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.inspect.recognise_batch_norm import (
    BatchNormLike,
    BatchNormSite,
    Unrecognized,
    matching_names,
    required_batch_norm_sites,
)
from bnkit.model.layers.frozen_mixin import ATTRIBUTES, MODE, REQUIRES_GRAD, Frozen, bare_class
from bnkit.model.layers.put_mixin_before_class import mix_in, take_out

_LEFT_OUT = "left out by include or exclude"


def freeze(
    model: nn.Module,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    affine: bool = False,
) -> Changes:
    """Freeze the batch norms of ``model`` in place: they normalise by running statistics and never update them.

    They stay frozen after ``model.train()``, in copies and pickles, and through ``torch.save(model)``, until
    ``unfreeze``. PyTorch's ``update_bn`` does not reset them. The ``state_dict`` is unchanged, and does not record that
    they are frozen. The parameters stay the same objects, so an existing optimizer still works.

    Args:
        model: Changed in place. Layers of bnkit and PyTorch, and recognised layers of other libraries, are frozen.
        include, exclude: Patterns for dotted names, such as ``"layer1.*"``, to select and to leave out.
        affine: Freeze gamma and beta too: set ``requires_grad=False`` and drop their gradients, so that the next step
            of an optimizer does not change them.

    Raises:
        ModelError: There is no batch norm, or a lazy one has not seen an input yet.
        SettingsError: An argument is invalid, or a pattern matches no batch norm.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        >>> print(freeze(model))
        site  action  detail
        1     frozen  statistics
        1 changed, 0 kept
        >>> model.train()[1].training
        False
    """
    check_bool("affine", affine)
    sites = required_batch_norm_sites(model)
    picked = matching_names([site.names for site in sites], include, exclude)
    for site in sites:
        if site.name in picked and isinstance(site.recognised_as, Unrecognized) and site.recognised_as.is_lazy:
            raise ModelError(
                f"{site.name or 'the model'}: {type(site.module).__name__}, which has not seen an input yet; expected one "
                "that has: run the model once, then freeze it, or leave it out with `exclude`"
            )
    trained = _trained_before(model)
    return Changes(
        [_freeze(site, trained, affine=affine) if site.name in picked else _kept(site, _LEFT_OUT) for site in sites]
    )


def unfreeze(model: nn.Module, *, include: Patterns | None = None, exclude: Patterns | None = None) -> Changes:
    """Unfreeze batch norms in place: gamma and beta train if they did before; the mode becomes that of the parent.

    Args:
        model: Changed in place.
        include, exclude: As in ``freeze``.

    Raises:
        ModelError: There is no batch norm.
        SettingsError: A pattern matches none.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        >>> changes = freeze(model)
        >>> print(unfreeze(model))
        site  action    detail
        1     unfrozen  statistics
        1 changed, 0 kept
        >>> model[1].training
        True
    """
    sites = required_batch_norm_sites(model)
    picked = matching_names([site.names for site in sites], include, exclude)
    parents = {child: parent for parent in reversed(list(model.modules())) for child in parent.children()}
    return Changes(
        [_unfreeze(site, parents.get(site.module)) if site.name in picked else _kept(site, _LEFT_OUT) for site in sites]
    )


def _freeze(site: BatchNormSite, trained: dict[nn.Parameter, bool], *, affine: bool) -> Change:
    module, like = site.module, site.recognised_as
    was_frozen = isinstance(module, Frozen)
    own = {name: p for name in ("weight", "bias") if (p := module._parameters.get(name)) is not None}
    remembered: dict[str, bool] = vars(module).get(REQUIRES_GRAD, {})
    new = [name for name in own if name not in remembered] if affine else []
    note = ""
    if isinstance(like, Unrecognized):
        if not like.is_subclass:
            return _kept(site, f"is a {type(module).__name__}, which {like.reason}")
        note = f"; kept in evaluation mode only: {bare_class(module).__name__} {like.reason}"
    if not new:
        reason = "is frozen already" if was_frozen else _nothing_to_hold(module, like)
        if reason is not None:
            return _kept(site, reason)
    if not was_frozen:
        mode = module.training
        mix_in(module, Frozen)
        vars(module)[MODE] = mode
        module.training = False
    vars(module)[REQUIRES_GRAD] = {**remembered, **{name: trained[own[name]] for name in new}}
    for name in new:
        own[name].requires_grad_(False)
        own[name].grad = None
    holds_statistics = not was_frozen and _nothing_to_hold(module, like) is None
    what = ["statistics"] * holds_statistics + [{"weight": "gamma", "bias": "beta"}[name] for name in new]
    return Change(site.name, "frozen", ", ".join(what) + note)


def _nothing_to_hold(module: nn.Module, like: BatchNormLike | Unrecognized) -> str | None:
    """Why the statistics of a layer need not or cannot be frozen; None if they can."""
    if isinstance(like, Unrecognized):
        return None
    if like.is_frozen:
        return f"is always frozen, as a {type(module).__name__}"
    if like.mean is None or like.variance is None:
        return "keeps no running statistics, and normalises by the batch in evaluation too"
    return None


def _unfreeze(site: BatchNormSite, parent: nn.Module | None) -> Change:
    module = site.module
    if not isinstance(module, Frozen):
        if isinstance(site.recognised_as, BatchNormLike) and site.recognised_as.is_frozen:
            return _kept(site, f'is always frozen, as a {type(module).__name__}; convert(model, to="bnkit") first')
        return _kept(site, "is not frozen")
    remembered = module._requires_grad_before
    for name, learnt in remembered.items():
        parameter = module._parameters.get(name)
        if parameter is not None:
            parameter.requires_grad_(learnt)
    mode = module._mode_asked_for if parent is None else parent.training
    for name in ATTRIBUTES:
        del vars(module)[name]
    take_out(module, Frozen)
    module.training = mode
    keeps_statistics = isinstance(site.recognised_as, Unrecognized) or site.recognised_as.mean is not None
    what = [*["statistics"] * keeps_statistics, *({"weight": "gamma", "bias": "beta"}[name] for name in remembered)]
    return Change(site.name, "unfrozen", ", ".join(what))


def _trained_before(model: nn.Module) -> dict[nn.Parameter, bool]:
    """The ``requires_grad`` of each parameter before anything was frozen: several layers may freeze a tied one."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, Frozen):
            for name, learnt in module._requires_grad_before.items():
                parameter = module._parameters.get(name)
                if parameter is not None:
                    trained[parameter] = learnt
    return trained


def _kept(site: BatchNormSite, reason: str) -> Change:
    return Change(site.name, UNCHANGED, reason)
