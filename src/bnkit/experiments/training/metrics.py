"""Metrics of regression: functions of the outputs and targets of a whole part of the data that return one number."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from bnkit.errors import DataError

# Not from torchmetrics, which takes 3 s to load and whose R² is 0 for a target that never varies, fails for a single example,
# and rounds in float32.
Metric = Callable[[Tensor, Tensor], Tensor | float]


def r2_score(outputs: Tensor, targets: Tensor) -> Tensor:
    """The coefficient of determination, R²: 1 is perfect, 0 is the score of the mean of the targets.

    With several values, the mean over them. As ``sklearn.metrics.r2_score``, except that values whose targets are all equal
    are skipped, because they have no variance (scikit-learn counts them as 0, or 1 if predicted exactly). NaN if all are
    skipped.

    Args:
        outputs, targets: (N, *), floating.

    Raises:
        DataError: If their shapes differ.

    Examples:
        >>> import torch
        >>> targets = torch.tensor([[0.0], [1.0], [2.0]])
        >>> r2_score(targets, targets).item(), r2_score(torch.ones(3, 1), targets).item()
        (1.0, 0.0)
    """
    outputs, targets = _as_float64(outputs, targets)
    # Compared, not subtracted from their mean: the mean is rounded, and a difference of 1e-17 would count as variance.
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


def r2_scores(outputs: Tensor, targets: Tensor) -> Tensor:
    """(N,), the contribution of each example to ``r2_score``, which is their mean.

    They are the pseudo-values of a ratio: their standard deviation is that of R² over samples of examples, to first order (Miller 1974,
    "The jackknife: a review").
    """
    outputs, targets = (values.flatten(1) for values in _as_float64(outputs, targets))
    varies = (targets != targets[:1]).any(0)
    error = (targets - outputs)[:, varies].square()
    total = (targets - targets.mean(0))[:, varies].square()
    unexplained = error.mean(0) / total.mean(0)
    return (1 - unexplained - (error - unexplained * total) / total.mean(0)).mean(1)


def _example_means(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, targets: loss(*_as_float64(outputs, targets), reduction="none").flatten(1).mean(1)


def _as_float64(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64, if their shapes agree: (N,) and (N, 1) would broadcast to (N, N)."""
    if outputs.shape != targets.shape:
        raise DataError(
            f"got outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}; expected the same"
        )
    return outputs.double(), targets.double()


# torchmetrics' attribute for the better direction.
mean_absolute_error.higher_is_better = False  # type: ignore[attr-defined]
mean_squared_error.higher_is_better = False  # type: ignore[attr-defined]

METRICS: dict[str, Metric] = {metric.__name__: metric for metric in (r2_score, mean_absolute_error, mean_squared_error)}

# The score of each example, (N,); their mean is the metric.
EXAMPLE_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "r2_score": r2_scores,
    "mean_absolute_error": _example_means(functional.l1_loss),
    "mean_squared_error": _example_means(functional.mse_loss),
}


def is_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether each answer is right: the class with the highest score. Bool, of the shape of class-number targets.

    Args:
        outputs: (N, classes, *) scores.
        targets: (N, *) class numbers; or (N, classes, *) shares of the classes, of which the largest is the right one.
    """
    expected = targets.argmax(1) if targets.is_floating_point() else targets
    return outputs.argmax(1) == expected
