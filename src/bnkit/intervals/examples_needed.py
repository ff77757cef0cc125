"""How many test examples would decide, where more seeds cannot."""

from __future__ import annotations

import math
from collections.abc import Callable

# No more than this many times the present test examples are recommended.
_MOST_TIMES = 10_000


def examples_needed(now: int, decide: Callable[[int], bool]) -> int | None:
    """The smallest number of test examples for which ``decide`` is true, rounded up to two digits.

    Args:
        now: The present number of test examples.
        decide: Whether a number of test examples would decide; true for every larger number too.

    Returns:
        The number; None if the present one decides already, or if not even 10,000 times as many would.

    Examples:
        >>> examples_needed(100, lambda examples: examples >= 1234), examples_needed(100, lambda examples: True)
        (1300, None)
    """
    low, high = now, now * _MOST_TIMES
    if decide(low) or not decide(high):
        return None
    while high > 1.02 * low and high > low + 1:
        middle = round(math.sqrt(low * high))
        low, high = (low, middle) if decide(middle) else (middle, high)
    unit = int(10 ** max(0, len(str(high)) - 2))
    return math.ceil(high / unit) * unit
