"""What a regression is judged by, beside its loss: the whole part's outputs and targets in, one number out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Metric = Callable[[Tensor, Tensor], Tensor | float]


def r2_score(outputs: Tensor, targets: Tensor) -> Tensor:
    """The coefficient of determination, R²: 1 is perfect, 0 is what the mean of the targets scores.

    Of several values, the mean over them. As ``sklearn.metrics.r2_score``, but for targets that are all the same, which
    give NaN: nothing is left to explain.

    Args:
        outputs, targets: (N, values), floating.

    Example:
        >>> import torch
        >>> targets = torch.tensor([[0.0], [1.0], [2.0]])
        >>> r2_score(targets, targets).item(), r2_score(torch.ones(3, 1), targets).item()
        (1.0, 0.0)
    """
    outputs, targets = outputs.double(), targets.double()
    unexplained = (targets - outputs).square().sum(0)
    total = (targets - targets.mean(0)).square().sum(0)
    return (1 - unexplained / total).mean()


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of |output − target|, 0-dimensional."""
    return functional.l1_loss(outputs, targets)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of (output − target)², 0-dimensional."""
    return functional.mse_loss(outputs, targets)


# torchmetrics' word for which way is better.
mean_absolute_error.higher_is_better = False  # type: ignore[attr-defined]
mean_squared_error.higher_is_better = False  # type: ignore[attr-defined]

METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (r2_score, mean_absolute_error, mean_squared_error)}


def answered(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether each answer is right: the class with the highest score. Bool, of the shape of class-number targets.

    Args:
        outputs: (N, classes, *) scores.
        targets: (N, *) class numbers; or (N, classes, *) shares of the classes, of which the largest is asked for.
    """
    asked = targets.argmax(1) if targets.is_floating_point() else targets
    return outputs.argmax(1) == asked


def answered_yes_or_no(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether each answer is right: a logit above 0 for a target above one half. Bool, of the targets' shape."""
    return (outputs > 0) == (targets > 0.5)
