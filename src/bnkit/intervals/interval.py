"""A confidence interval, and the conclusion from one of a difference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95
# Fewer values do not show how much they vary.
FEWEST = 3


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean of the values.
        low, high: The ends of the interval (95 %, or Holm's of several); None if there are too few values (n < 2).
        n: The number of values.
        counted: The number of test answers, if it sets the width instead of the spread of the values; otherwise None.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    counted: int | None = None


class Conclusion(StrEnum):
    """The conclusion from the interval of a difference."""

    GAIN = "gain"
    LOSS = "loss"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


def conclude(difference: Interval | None, margin: float) -> Conclusion:
    """The conclusion from a difference: its interval excludes 0, lies within ``margin`` around 0, or neither.

    Fewer than three values allow no conclusion.

    Args:
        difference: The difference with its interval; None if there is none.
        margin: The largest difference that would not matter.

    Examples:
        >>> conclude(Interval(0.001, -0.004, 0.006, 5), margin=0.01)
        <Conclusion.NOTHING: 'nothing'>
    """
    if difference is None or difference.low is None or difference.high is None or difference.n < FEWEST:
        return Conclusion.UNKNOWN
    if difference.low > 0:
        return Conclusion.GAIN
    if difference.high < 0:
        return Conclusion.LOSS
    if -margin <= difference.low and difference.high <= margin:
        return Conclusion.NOTHING
    return Conclusion.UNKNOWN
