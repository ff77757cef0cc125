"""Batch norms that do in one pass what their network does behind them; and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bnkit.errors import ModelError
from bnkit.model.edit.copy import deepcopy_model, replace_module
from bnkit.model.edit.fuse_plan import PlannedFusion
from bnkit.model.inspect.example import Example
from bnkit.model.layers.activation_placeholder import DoneBefore
from bnkit.model.layers.deferred import LATEST, Deferring
from bnkit.model.layers.mixin import mix_in, take_out
from bnkit.model.verify.training_steps import check_trains_alike
from bnkit.nn.batch_norm import _BatchNorm

# Of a layer that applies what stood behind it: what stands there now.
PLACE = "_place_behind"


def fuse(
    model: nn.Module, planned: Mapping[str, PlannedFusion], example: Example
) -> tuple[dict[str, PlannedFusion], str]:
    """Let batch norms of ``model``, by their names, do what is planned, as far as the network then trains as before.

    Returns:
        What was done; and why the rest was not, empty if there is none.

    Raises:
        ModelError: What was fused for good computes something else.
    """
    for_good = {name: plan for name, plan in planned.items() if plan.place is not None}
    done, reason = dict(planned), ""
    if len(for_good) < len(planned):
        try:
            _check(model, done, example)
        except ModelError as error:
            done, reason = for_good, str(error)
    if done and (reason or len(for_good) == len(planned)):
        _check(model, done, example)
    _apply(model, done)
    return done, reason


def _check(model: nn.Module, planned: Mapping[str, PlannedFusion], example: Example) -> None:
    """Fuse a copy, and set it against another that is not, without waiting for loops to be compiled."""

    def copy(*, is_fused: bool) -> nn.Module:
        twin = deepcopy_model(model)
        if is_fused:
            _apply(twin, planned)
        for module in twin.modules():
            if isinstance(module, _BatchNorm) and module.kernel == "auto":
                module.kernel = "aten"
            if isinstance(module, Deferring):
                module.waits_always = True
        return twin

    check_trains_alike(copy(is_fused=False), copy(is_fused=True), example)


def _apply(model: nn.Module, planned: Mapping[str, PlannedFusion]) -> None:
    for name, plan in planned.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        if plan.place is not None:
            behind = DoneBefore(model.get_submodule(plan.place))
            replace_module(model, behind.activation, behind.train(behind.activation.training))
            norm.activation = plan.activation
            vars(norm)[PLACE] = (behind,)  # in a tuple it is no module of the layer
            continue
        mix_in(norm, Deferring)
        assert isinstance(norm, Deferring)
        norm.awaits_sum, norm.awaited_activation = plan.takes_sum, plan.activation
        norm.passed_through = tuple(map(model.get_submodule, plan.passed_through))


def unfuse(model: nn.Module, norm: nn.Module, *, keeps_activation: bool) -> None:
    """Let ``norm``, a module of ``model``, wait for nothing; and what stood behind it stand there again, if it does not keep it."""
    if isinstance(norm, Deferring):
        for name in (*Deferring.__annotations__, "waits_always", LATEST):
            vars(norm).pop(name, None)
        take_out(norm, Deferring)
    if keeps_activation or not isinstance(norm, _BatchNorm):
        return
    for place in vars(norm).pop(PLACE, ()):
        if any(module is place for module in model.modules()):
            replace_module(model, place, place.activation.train(place.training))
            norm.activation = None
