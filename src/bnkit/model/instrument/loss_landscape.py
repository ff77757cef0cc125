"""Measure the smoothness of the loss along a gradient step: Santurkar et al. (2018), section 3.

"How Does Batch Normalization Help Optimization?" measures along the gradient, at a point of the training and for a
range of step sizes around the learning rate, how much the loss varies and how much the gradient changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.model.preserve_state import RngState, preserve_model

# The step sizes, as multiples of the learning rate: the range of the paper's figure 4.
STEPS = (0.5, 1.0, 2.0, 4.0)

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_along_gradient(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, learning_rate: float
) -> dict[str, float | None]:
    """Measure the loss of a batch along its gradient; the model, its buffers and the random states are not changed.

    Args:
        model: A model in training mode: batch norm uses the statistics of the batch at every point.
        loss: A function of outputs and targets.
        inputs, targets: The batch.
        learning_rate: The learning rate of a plain gradient step.

    Returns:
        ``loss`` and ``gradient_norm`` at the current weights, ``loss_range`` (the highest minus the lowest loss over
        the step sizes), and ``gradient_change`` (the largest distance of a gradient along the step from the current
        one). Figures that are not finite are None.
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
    """The largest value; infinity if one is not finite, because ``max`` may ignore NaN."""
    return max(values) if all(map(math.isfinite, values)) else math.inf
