"""Compare the predictions of two models on the same data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.model.inspect.batches import Batches, Forward, device_of
from bnkit.model.inspect.example import Example, tensors_in
from bnkit.model.preserve_state import RngState, preserve_model
from bnkit.model.verify.prediction_changes import PredictionChanges


def effect_of(
    before: nn.Module,
    after: nn.Module,
    batches: Any = None,
    forward: Forward | None = None,
    *,
    example_inputs: Any = None,
) -> PredictionChanges:
    """Compare the predictions of ``before`` and ``after`` in evaluation mode; the models are not changed.

    Args:
        before, after: Two models with the same arguments.
        batches: A ``DataLoader``, a list, an iterator or a tensor. If a batch is a tuple or a list, its first entry is
            the input, and the second holds the targets: class numbers, or floating targets of the output's shape.
        forward: Called with the model and each batch, for models that take more than one input; the second entry then
            holds the targets only if it consists of class numbers, (N,).
        example_inputs: Instead of ``batches``: a tensor, a tuple (positional arguments) or a dictionary (keywords).

    Raises:
        ModelError: One of the models raises.

    Examples:
        >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> effect = effect_of(one, one, [(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))])
        >>> effect.examples, effect.change, effect.is_worse
        (3, 0.0, False)
    """
    effect = PredictionChanges()
    with preserve_model(before), preserve_model(after), torch.no_grad():
        before.eval()
        after.eval()
        if batches is None:
            example = Example(example_inputs)
            first, second = (outputs_of(example.fresh().run(model)) for model in _alike(before, after))
            effect.add(first, second)
            return effect
        passes = Batches(batches, forward, None, device_of(before))
        for number, batch in enumerate(passes, 1):
            first, second = (outputs_of(passes.run(model, batch, number)) for model in _alike(before, after))
            effect.add(first, second, targets_of(batch, passes))
    return effect


def _alike(*models: nn.Module) -> Iterator[nn.Module]:
    """Yield each of ``models``, with the same random state."""
    state = RngState()
    for model in models:
        state.restore()
        yield model


def outputs_of(output: Any) -> list[Tensor]:
    """Copies of the floating-point tensors in a model's output."""
    return [tensor.detach().clone() for _, tensor in tensors_in(output) if tensor.is_floating_point()]


def targets_of(batch: Any, batches: Batches) -> Any:
    """The targets: the second entry of a batch that is a tuple or a list; otherwise None.

    If the user's ``forward`` takes whole batches, the second entry may be another input; then it is only used if it
    consists of class numbers (N,).
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return None
    targets = batch[1]
    are_numbers = isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype in (torch.int64, torch.int32)
    return targets if are_numbers or not batches.are_taken_whole else None
