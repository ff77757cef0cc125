"""How smooth the loss is along the step that gradient descent takes: Santurkar et al. (2018), section 3.

"How Does Batch Normalization Help Optimization?" looks along the gradient at a point of the training, over a range of
step sizes around the learning rate: how much the loss varies, and how far the gradient there is from the gradient here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.model.state import RngState, preserve_model

# Step sizes that are tried, as multiples of the learning rate: the range of the paper's figure 4.
STEPS = (0.5, 1.0, 2.0, 4.0)

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_along_gradient(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, learning_rate: float
) -> dict[str, float | None]:
    """What the loss of a batch does along its gradient; the model stays as it is, buffers and random states included.

    Args:
        model: In training mode: batch norm takes the statistics of the batch at every point.
        loss: Of outputs and targets.
        inputs, targets: The batch.
        learning_rate: Of a plain gradient step.

    Returns:
        ``loss`` here, ``loss_range`` (the highest minus the lowest loss over the step sizes), ``gradient_norm`` here, and
        ``gradient_change`` (the largest distance of a gradient along the step from the one here). None for what is
        not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    here = [parameter.detach().clone() for parameter in parameters]
    random_state = RngState()

    def at_this_point() -> tuple[float, tuple[Tensor, ...]]:
        random_state.restore()
        value = loss(model(inputs), targets)
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        return value.item(), gradients

    losses, changes = [], []
    with preserve_model(model):
        try:
            first, start = at_this_point()
            for multiple in STEPS:
                with torch.no_grad():
                    for parameter, value, gradient in zip(parameters, here, start, strict=True):
                        parameter.copy_(value - multiple * learning_rate * gradient)
                further, gradients = at_this_point()
                losses.append(further)
                changes.append(_norm([there - g for there, g in zip(gradients, start, strict=True)]))
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, here, strict=True):
                    parameter.copy_(value)
    figures: dict[str, Any] = {
        "loss": first,
        "loss_range": _most(losses) - min(losses),
        "gradient_norm": _norm(list(start)),
        "gradient_change": _most(changes),
    }
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}


def _norm(tensors: list[Tensor]) -> float:
    return float(nn.utils.get_total_norm(tensors))


def _most(values: list[float]) -> float:
    """The largest; infinity if one of them is not finite, which ``max`` may pass over."""
    return max(values) if all(map(math.isfinite, values)) else math.inf
