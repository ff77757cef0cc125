"""An interval of confidence, and what one of a difference says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95
# With fewer values there is no saying how much they vary.
FEWEST = 3


@dataclass(frozen=True)
class Interval:
    """A mean and where the true one lies with 95 % confidence.

    Attributes:
        mean: Of the values.
        low, high: The ends of the interval (95 %, or Holm's of several); None where there are too few values for one (n < 2).
        n: How many values.
        counted: Of how many answers, where not the spread of the values but the counting of so many sets the width.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    counted: int | None = None


class Conclusion(StrEnum):
    """What an interval of a difference says."""

    GAIN = "gain"
    LOSS = "loss"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


def conclude(difference: Interval | None, margin: float) -> Conclusion:
    """Whether a difference is one: its interval leaves out 0, lies within ``margin`` around it, or neither.

    Fewer than three values say nothing.

    Args:
        difference: Of the thing looked at, or None if there is none to look at.
        margin: The largest difference that would not matter.

    Example:
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
