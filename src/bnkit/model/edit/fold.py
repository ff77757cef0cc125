"""Fold batch normalization into neighbouring layers for inference, and compare the result with the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnkit.errors import ModelError
from bnkit.model.change_list import UNCHANGED, Change, Changed, Changes
from bnkit.model.edit.deepcopy_model import deepcopy_model, replace_module
from bnkit.model.edit.fold_plan import PlannedFold, plan_folds
from bnkit.model.edit.fold_program import ChangedProgram, fold_program
from bnkit.model.edit.fold_weights import into_input, into_output
from bnkit.model.inspect.example import Example, largest_difference
from bnkit.model.inspect.name_patterns import Patterns
from bnkit.model.inspect.recognise_batch_norm import as_module, recognise
from bnkit.model.inspect.trace import trace
from bnkit.model.layers.attached_batch_norm import WithBatchNorm, detach_batch_norm

# Rest and Apart: the names of these classes in models that were pickled as a whole by earlier versions.
from bnkit.model.layers.folded import Apart, ResidualActivation, Rest, ScaleAndShift  # noqa: F401
from bnkit.model.preserve_state import isolate_from_ambient_modes, preserve_model
from bnkit.model.verify.verify_changed_model import check_comparable, error_of, output_of, tolerance

_DONE = "with its batch norm folded"
# The tolerance for the algebra in float64, after rounding in some hundred layers.
_EXACT = 1e-8


@overload
def fold(
    model: nn.Module, example_inputs: Any, *, include: Patterns | None = None, exclude: Patterns | None = None
) -> Changed: ...
@overload
def fold(
    model: ExportedProgram, example_inputs: Any, *, include: Patterns | None = None, exclude: Patterns | None = None
) -> ChangedProgram: ...
@isolate_from_ambient_modes
def fold(
    model: nn.Module | ExportedProgram,
    example_inputs: Any,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
) -> Changed | ChangedProgram:
    """Return a copy of ``model`` without batch norm that computes the same in evaluation mode, and the changes.

    A batch norm is folded into the convolution, transposed convolution or linear layer that feeds only this batch norm;
    otherwise into the layer that it feeds, if that is exact; otherwise it becomes one scale and shift, fused with its
    activation. Layers that run several times are folded if all their calls agree. The weights are computed in float64.

    In a program of ``torch.export``, a batch norm is folded into the layer that feeds it, or kept. The program must
    have been exported in evaluation mode.

    Args:
        model: Not changed. Statistics, gamma and beta are used as they are; call ``recalibrate`` first if needed.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords) that ``model`` takes.
        include, exclude: Dotted names of batch norms, with shell wildcards, to select and to leave out.

    Returns:
        ``(model, changes)``: the model in evaluation mode, or a program. ``changes.error``: their difference on the
        example, caused by rounding.

    Raises:
        ModelError: The model raises on the example, cannot be copied, has no batch norm, or the folded model computes
            something else: the message names the first place where they differ.
        SettingsError: A pattern matches no batch norm.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> folded, changes = fold(model, torch.ones(1, 1, 4, 4))
        >>> [(change.site, change.action, change.detail) for change in changes]
        [('1', 'folded', 'into the output of 0')]
    """
    if isinstance(model, ExportedProgram):
        return fold_program(model, example_inputs, include, exclude)
    example, folded = Example(example_inputs), deepcopy_model(model)
    run = trace(folded, example)
    planned, kept = plan_folds(folded, run, include, exclude)
    check_comparable(run.output, folded)
    exact = _check_exact(folded, planned, example)
    folded = _apply(folded, planned).eval()
    error = error_of(run.output, output_of(folded, example, _DONE), folded, _DONE, lambda: exact)
    changes = [Change(entry.name, "folded", entry.detail) for entry in planned]
    return Changed(folded, Changes([*changes, *(Change(name, UNCHANGED, reason) for name, reason in kept)], error))


def _apply(model: nn.Module, planned: list[PlannedFold]) -> nn.Module:
    """Change ``model`` in place and return it; returns a new module if the whole model was a batch norm."""
    for entry in planned:
        norm = model.get_submodule(entry.name)
        for name in entry.into_output_of:
            into_output(model.get_submodule(name), entry.scale, entry.shift)
        for name in entry.into_input_of:
            into_input(model.get_submodule(name), entry.scale, entry.shift)
        stand_in = _stand_in(norm, entry)
        attached_to = model.get_submodule(entry.attached_to) if entry.attached_to is not None else None
        if not isinstance(attached_to, WithBatchNorm):
            model = replace_module(model, norm, stand_in)
            continue
        if isinstance(stand_in, ScaleAndShift):
            stand_in.features_last = attached_to.features_last
        detach_batch_norm(attached_to)
        if not isinstance(stand_in, nn.Identity):
            model = replace_module(model, attached_to, nn.Sequential(attached_to, stand_in))
    return model


def _stand_in(norm: nn.Module, entry: PlannedFold) -> nn.Module:
    """The module that replaces ``norm``."""
    like = recognise(norm)
    assert like is not None
    activation = as_module(like.activation)
    if entry.into_output_of or entry.into_input_of:
        return ResidualActivation(activation) if entry.takes_residual else activation
    tensor = next((t for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()), entry.scale)
    return ScaleAndShift(entry.scale.to(tensor), entry.shift.to(tensor), activation)


def _check_exact(model: nn.Module, planned: list[PlannedFold], example: Example) -> Any:
    """Fold a copy in float64, compare it with the unfolded one, and return the output of the unfolded one.

    A model that does not run in float64 is compared in its own precision, and None is returned.

    Raises:
        ModelError: The outputs differ.
    """
    wide = deepcopy_model(model).double()
    is_exact = True
    try:
        narrow = example.to(torch.float64)
        before, output = _run_and_keep(wide, planned, narrow)
        limit = _EXACT
    except ModelError:
        wide, narrow, is_exact = deepcopy_model(model), example, False
        before, output = _run_and_keep(wide, planned, narrow)
        limit = tolerance(model)
    wide = _apply(wide, planned)
    try:
        after, folded_output = _run_and_keep(wide, planned, narrow)
    except ModelError:
        output_of(wide, narrow, _DONE)  # raises
        raise
    for entry in planned:
        name = entry.compared_at
        if name in before and not (difference := largest_difference(before[name], after.get(name))) <= limit:
            raise ModelError(
                f"folding {entry.name} {entry.detail} changes what comes out there by {difference:.1e} of its largest magnitude; "
                f"expected the same: use `exclude` {entry.name!r}"
            )
    if not (difference := largest_difference(output, folded_output)) <= limit:
        raise ModelError(
            f"{type(model).__name__} computes something else {_DONE}: the outputs differ by {difference:.1e} of "
            "their largest magnitude, though every place agrees; expected the same: use exclude to find which it is"
        )
    return output if is_exact else None


def _run_and_keep(
    model: nn.Module, planned: list[PlannedFold], example: Example
) -> tuple[dict[str, list[Tensor]], Any]:
    """The outputs of all calls of the modules to compare, and the output of ``model``."""
    outputs: dict[str, list[Tensor]] = {}

    def keep_as(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs.setdefault(name, []).append(output.detach().clone())

        return hook

    # The input of a layer that absorbed a scale and shift has changed: there, only the output of the model is compared.
    compared_at = {entry.compared_at for entry in planned if not entry.into_input_of} - {""}
    hooks = [model.get_submodule(name).register_forward_hook(keep_as(name)) for name in compared_at]
    try:
        with preserve_model(model), torch.no_grad():
            return outputs, example.fresh().run(model.eval())
    finally:
        for hook in hooks:
            hook.remove()
