"""Remove batch normalization from a model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.argument_checks import check_bool
from bnkit.model.change_list import UNCHANGED, Change, Changed, Changes
from bnkit.model.edit.deepcopy_model import deepcopy_model, replace_module
from bnkit.model.edit.fold import fold
from bnkit.model.edit.fold_plan import feeding_layer, has_own_forward
from bnkit.model.edit.fold_weights import add_bias, is_wrapper_subclass, out_channels
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.name_patterns import Patterns, matching
from bnkit.model.inspect.recognise_batch_norm import as_module, no_batch_norm, recognise
from bnkit.model.inspect.trace import Operation, Trace, trace
from bnkit.model.layers.attached_batch_norm import WithBatchNorm, detach_batch_norm
from bnkit.model.layers.folded import ClonedActivation, ResidualActivation
from bnkit.model.preserve_state import isolate_from_ambient_modes
from bnkit.model.verify.verify_changed_model import output_of


@isolate_from_ambient_modes
def remove(
    model: nn.Module,
    example_inputs: Any,
    *,
    preserve: bool = False,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
) -> Changed:
    """Return a copy of ``model`` without batch normalization, and the changes.

    The copy, to compare with, has the same layers. A layer whose bias the batch norm replaced gets a bias, and
    activations that were part of a batch norm are kept. ``remove`` undoes ``add`` completely: biases get their previous
    values, unless the batch norm was trained since.

    Args:
        model: Not changed.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords) that ``model`` takes.
        preserve: Fold statistics, gamma and beta into the layers, so that in evaluation mode the copy computes what
            ``model`` does; like ``fold``, but the mode of ``model`` stays. If False, weights stay the same and new
            biases are 0, for a network to be trained.
        include, exclude: Dotted names of batch norms, with shell wildcards, to select and to leave out.

    Returns:
        ``(model, changes)``. With ``preserve``, ``changes.error`` is the difference of the outputs on the example.

    Raises:
        ModelError: The model raises on the example, cannot be copied, or has no batch norm; or the copy does not run
            or, with ``preserve``, computes something else.
        SettingsError: An argument is invalid, or a pattern matches no batch norm.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> twin, changes = remove(model, torch.ones(1, 1, 4, 4))
        >>> twin
        Sequential(
          (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    check_bool("preserve", preserve)
    if preserve:
        folded, changes = fold(model, example_inputs, include=include, exclude=exclude)
        modes = {name: module.training for name, module in model.named_modules()}
        for name, module in folded.named_modules():
            module.training = modes.get(name, model.training)
        named = [Change(c.site, "removed", c.detail) if c.is_made else c for c in changes]
        return Changed(folded, Changes(named, changes.error))

    example, twin = Example(example_inputs), deepcopy_model(model)
    run = trace(twin, example)
    norms = {name: like for name, module in twin.named_modules() if (like := recognise(module)) is not None}
    if not norms:
        raise no_batch_norm(model, "has", "something to remove")
    wanted = matching(norms, include, exclude)
    changes_made: list[Change] = []
    for name, like in norms.items():
        if name not in wanted:
            changes_made.append(Change(name, UNCHANGED, "it is left out by include or exclude"))
            continue
        norm = twin.get_submodule(name)
        biased = [layer for operation in run.of_module(name) if (layer := feeding_layer(run, operation)) is not None]
        parent = twin.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, WithBatchNorm) and parent.batch_norm is norm:
            detail = _detach(parent)
        else:
            # For a batch norm that did not run, the layer that feeds it is unknown.
            is_fed_alone = not name or 0 < len(run.of_module(name)) == len(biased)
            stand_in = _stand_in(as_module(like.activation), run.of_module(name), is_fed_alone=is_fed_alone)
            twin = replace_module(twin, norm, stand_in)
            has_shift = like.bias is not None
            detail = ", ".join(_add_zero_bias(twin, layer, run) for layer in dict.fromkeys(biased) if has_shift)
            if not run.of_module(name):
                detail = "it did not run on the example: whether a layer needs a bias in its place is not known"
        changes_made.append(Change(name, "removed", detail or "nothing replaces it"))
    output_of(twin, example, "with its batch norm removed")
    return Changed(twin, Changes(changes_made))


def _stand_in(activation: nn.Module, operations: tuple[Operation, ...], *, is_fed_alone: bool) -> nn.Module:
    """The module that replaces a batch norm; it clones its input before ``activation`` unless it ``is_fed_alone``."""
    if any(len(operation.inputs) > 1 for operation in operations):
        return ResidualActivation(activation)
    return activation if is_fed_alone else ClonedActivation(activation)


def _detach(layer: WithBatchNorm) -> str:
    """Remove the batch norm from ``layer``, and restore the bias that it had."""
    had_bias, bias_trained = layer.lost_bias, layer.bias_trained
    norm = detach_batch_norm(layer)
    if not had_bias:
        return "its layer is unchanged"
    weight = layer.weight
    assert isinstance(weight, Tensor)
    like = recognise(norm)
    counter = getattr(norm, "num_batches_tracked", None)
    is_untrained = like is not None and like.mean is not None and counter is not None and int(counter) == 0
    value = weight.detach().new_zeros(out_channels(layer))
    if like is not None and like.mean is not None and is_untrained:
        # As ``add`` initialised it: the bias is beta minus the running mean.
        value = (0 if like.bias is None else like.bias.detach()) - like.mean
    add_bias(layer, value).requires_grad_(bias_trained)
    return "its layer has its bias again" + ("" if is_untrained else ", from 0")


def _add_zero_bias(model: nn.Module, name: str, run: Trace) -> str:
    """Add a bias of 0 to a layer without one; returns a remark for the change."""
    layer = model.get_submodule(name)
    weight = getattr(layer, "weight", None)
    if getattr(layer, "bias", None) is not None:
        return f"{name} has its bias"
    if not isinstance(weight, Tensor) or is_wrapper_subclass(weight):
        return f"{name} got no bias: its weight is not a plain tensor"
    bias = weight.detach().new_zeros(out_channels(layer))
    if has_own_forward(layer) and not _adds_bias(layer, bias, run.of_module(name)[0].shapes[0]):
        return f"{name} has a custom forward, which does not add a bias"
    add_bias(layer, bias)
    return f"{name} got a bias"


def _adds_bias(layer: nn.Module, bias: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a layer without a bias would add ``bias`` to its output if that were set."""
    without = deepcopy_model(layer).double().eval()
    having = deepcopy_model(without)
    values = torch.arange(1.0, len(bias) + 1, dtype=torch.float64, device=bias.device)
    add_bias(having, values)
    inputs = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64, device=bias.device).reshape(shape)
    try:
        with torch.no_grad():
            expected = without(inputs).movedim(-1 if isinstance(layer, nn.Linear) else 1, -1) + values
            got = having(inputs).movedim(-1 if isinstance(layer, nn.Linear) else 1, -1)
    except Exception:
        return False
    return expected.shape == got.shape and torch.allclose(expected, got, rtol=1e-9, atol=1e-12)
