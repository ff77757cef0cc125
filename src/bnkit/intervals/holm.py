"""Holm's procedure for several tests at once."""

from __future__ import annotations

from collections.abc import Sequence

from bnkit.intervals.interval import CONFIDENCE


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number by Holm (1979): reject those that are at most the error rate.

    "A simple sequentially rejective multiple test procedure".

    Examples:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def holm_confidences(p_values: Sequence[float]) -> list[float]:
    """The confidence for each interval, such that it excludes 0 exactly if Holm's procedure rejects.

    The probability that any interval wrongly excludes 0 is then at most 5 %, for any number of intervals. Those that are not
    rejected share the error rate equally.

    Examples:
        >>> [round(confidence, 4) for confidence in holm_confidences([0.01, 0.04, 0.03])]
        [0.9833, 0.975, 0.975]
    """
    error, count = 1 - CONFIDENCE, len(p_values)
    rejected = sum(adjusted <= error for adjusted in holm(p_values))
    confidences = [0.0] * count
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        confidences[index] = 1 - error / (count - min(rank, rejected))
    return confidences
