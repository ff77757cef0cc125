"""Intervals that hold however often one has looked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

_CONFIDENCE = 0.95
# More pairs than this nobody trains; the answer is then None.
_MOST_PAIRS = 10_000


class SupportsInterval(Protocol):
    """Differences with an interval of their own."""

    @property
    def values(self) -> tuple[float, ...]:
        """One paired difference a seed."""

    def interval(self, confidence: float) -> Any:
        """Where their mean lies, with ``confidence``."""


def interval_after_looks(differences: SupportsInterval, looks: Sequence[int], confidence: float = _CONFIDENCE) -> Any:
    """The interval at the last of ``looks``: those of all looks hold at once with ``confidence``.

    Alpha spending, Lan & DeMets (1983): the k-th look may be wrong with a chance of α·6/(π²k²), which sum to α.

    Args:
        differences: All that there are at the last look.
        looks: The number of pairs at every look, this one included.
        confidence: Of all looks together.
    """
    return differences.interval(1 - (1 - confidence) * 6 / (math.pi * max(1, len(looks))) ** 2)


def pairs_needed(
    differences: SupportsInterval, looks: Sequence[int], margin: float, confidence: float = _CONFIDENCE
) -> int | None:
    """About how many pairs in all would decide, if their mean and their spread stay; None where no number would.

    Args:
        differences: All that there are at the last look.
        looks: As of ``interval_after_looks``.
        margin: The largest difference that would not matter; 0 for none.
        confidence: Of all looks together.
    """
    interval = interval_after_looks(differences, looks, confidence)
    if interval is None or interval.low is None or interval.high is None:
        return None
    goal = max(abs(interval.mean), margin - abs(interval.mean))
    if goal <= 0:
        return None
    ratio = (interval.high - interval.low) / 2 / goal
    needed = max(interval.n + 1, math.ceil(interval.n * ratio**2))
    return needed if needed <= _MOST_PAIRS else None
