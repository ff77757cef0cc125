"""Fuse batch norms with the sum and activation that follow them, and undo it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bnkit.errors import ModelError
from bnkit.model.edit.deepcopy_model import deepcopy_model, replace_module
from bnkit.model.edit.fuse_plan import PlannedFusion
from bnkit.model.inspect.example import Example
from bnkit.model.layers.activation_placeholder import DoneBefore
from bnkit.model.layers.deferred_fusion import LATEST, Deferring
from bnkit.model.layers.put_mixin_before_class import mix_in, take_out
from bnkit.model.verify.training_steps import check_trains_alike
from bnkit.nn.batch_norm import _BatchNorm

# The attribute of a fused layer that holds the placeholder of the activation that it applies.
PLACEHOLDERS = "_place_behind"


def fuse(
    model: nn.Module, planned: Mapping[str, PlannedFusion], example: Example
) -> tuple[dict[str, PlannedFusion], str]:
    """Apply the ``planned`` fusions, by the names of batch norms of ``model``, if the network still trains as before.

    Returns:
        The fusions that were made; and why the others were not, or "".

    Raises:
        ModelError: Fusions with a placeholder, which never wait, compute something else.
    """
    for_good = {name: plan for name, plan in planned.items() if plan.activation_name is not None}
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
    """Compare a fused copy with an unfused one, with PyTorch's kernel so that no loop is compiled."""

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
        if plan.activation_name is not None:
            behind = DoneBefore(model.get_submodule(plan.activation_name))
            replace_module(model, behind.activation, behind.train(behind.activation.training))
            norm.activation = plan.activation
            vars(norm)[PLACEHOLDERS] = (behind,)  # the tuple keeps it out of the layer's submodules
            continue
        mix_in(norm, Deferring)
        assert isinstance(norm, Deferring)
        norm.awaits_sum, norm.awaited_activation = plan.takes_sum, plan.activation
        norm.passed_through = tuple(map(model.get_submodule, plan.passed_through))


def unfuse(model: nn.Module, norm: nn.Module, *, keeps_activation: bool) -> None:
    """Undo the fusion of ``norm`` in ``model``; unless ``keeps_activation``, put its activation back after it."""
    if isinstance(norm, Deferring):
        for name in (*Deferring.__annotations__, "waits_always", LATEST):
            vars(norm).pop(name, None)
        take_out(norm, Deferring)
    if keeps_activation or not isinstance(norm, _BatchNorm):
        return
    for placeholder in vars(norm).pop(PLACEHOLDERS, ()):
        if any(module is placeholder for module in model.modules()):
            replace_module(model, placeholder, placeholder.activation.train(placeholder.training))
            norm.activation = None
