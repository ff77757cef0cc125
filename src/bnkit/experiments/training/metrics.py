"""Metrics of a regression: the outputs and targets of a whole part of the data in, one number out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from bnkit.errors import DataError

# Not from torchmetrics, which takes 3 s to load and whose R² is 0 for a target that never varies, fails for a single example,
# and rounds in float32.
Metric = Callable[[Tensor, Tensor], Tensor | float]


def r2_score(outputs: Tensor, targets: Tensor) -> Tensor:
    """The coefficient of determination, R²: 1 is perfect, 0 is what the mean of the targets scores.

    Of several values, the mean over them. As ``sklearn.metrics.r2_score``, but a value whose targets are all the same is
    left out, as there is nothing to explain (scikit-learn counts it as 0, or 1 where it is met to the bit). NaN where all
    are left out.

    Args:
        outputs, targets: (N, *), floating.

    Raises:
        DataError: Their shapes differ.

    Example:
        >>> import torch
        >>> targets = torch.tensor([[0.0], [1.0], [2.0]])
        >>> r2_score(targets, targets).item(), r2_score(torch.ones(3, 1), targets).item()
        (1.0, 0.0)
    """
    outputs, targets = _as_float64(outputs, targets)
    # Compared, not subtracted from their mean: that is rounded, and a difference of 1e-17 would be something to explain.
    varies = (targets != targets[:1]).any(0)
    unexplained = (targets - outputs).square().sum(0)
    total = (targets - targets.mean(0)).square().sum(0)
    return (1 - unexplained[varies] / total[varies]).mean()


def mean_absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of |output − target|, 0-dimensional, float64.

    Raises:
        DataError: The shapes of ``outputs`` and ``targets`` differ.
    """
    return functional.l1_loss(*_as_float64(outputs, targets))


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of (output − target)², 0-dimensional, float64.

    Raises:
        DataError: The shapes of ``outputs`` and ``targets`` differ.
    """
    return functional.mse_loss(*_as_float64(outputs, targets))


def _as_float64(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64, if their shapes agree: (N,) and (N, 1) would broadcast to (N, N)."""
    if outputs.shape != targets.shape:
        raise DataError(
            f"got outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}; expected the same"
        )
    return outputs.double(), targets.double()


# torchmetrics' word for which way is better.
mean_absolute_error.higher_is_better = False  # type: ignore[attr-defined]
mean_squared_error.higher_is_better = False  # type: ignore[attr-defined]

METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (r2_score, mean_absolute_error, mean_squared_error)}


def is_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether each answer is right: the class with the highest score. Bool, of the shape of class-number targets.

    Args:
        outputs: (N, classes, *) scores.
        targets: (N, *) class numbers; or (N, classes, *) shares of the classes, of which the largest is the right one.
    """
    expected = targets.argmax(1) if targets.is_floating_point() else targets
    return outputs.argmax(1) == expected
