"""The error rate that each look may spend, so that all looks together spend what is promised.

Whoever looks at an interval after every pair of seeds, and stops when it leaves out 0, is wrong more often than one interval is:
five looks at 95 % are wrong in one case of eight. Lan & DeMets (1983, "Discrete sequential boundaries for clinical trials") share
out the error rate: a look after ``n`` pairs may spend what a fixed function allows by then, whatever looks come later.

A look after every pair from the third on is given a one-sided p value's limit in proportion to ``n ** -1.25``. That shape decided
soonest of those tried (``python -m benchmarks.sequential`` compares them, with O'Brien & Fleming's, Pocock's and confidence
sequences): it spends two fifths at the third pair and four fifths by the eighth, since most differences between networks are large
against what seeds do, or nothing. The factor is exact for Student's t of normal differences: t after 3, 4, 5, … pairs has one joint
distribution, whatever their mean and deviation are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from bnkit.intervals.interval import FEWEST

_DECAY = 1.25
# The factor of the limits n ** -1.25, and the chance that any p value from the third pair to the thousandth is below its limit; from
# ``python -m benchmarks.sequential --calibrate``, with errors below one part in a hundred. The first is a bound for what is smaller.
_FACTORS = (1e-15, 1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_CHANCES = (
    3.2e-15,
    1.247e-6,
    1.176e-5,
    1.08e-4,
    9.63e-4,
    0.002656,
    0.00796,
    0.01465,
    0.03224,
    0.0575,
    0.1006,
    0.2055,
    0.3457,
)
# Enough for the limits of a few looks to be known to one part in a hundred.
_PATHS = 200_000


def level_at(pairs: Any, error: float) -> Any:
    """The error rate of the interval after so many pairs, where every pair is followed by a look and all are to be right at once.

    Args:
        pairs: How many, at least 3; or an array of such numbers.
        error: The chance that any of the intervals misses.

    Example:
        >>> [round(level_at(pairs, 0.05), 3) for pairs in (3, 5, 10, 50)]
        [0.019, 0.01, 0.004, 0.001]
    """
    import numpy as np

    factor = math.exp(np.interp(math.log(error / 2), np.log(_CHANCES), np.log(_FACTORS)))
    return 2 * factor * pairs**-_DECAY


def anytime_p_value(p_values: Mapping[int, float]) -> float:
    """One p value of all looks: below ``a`` with a chance of at most ``a`` where nothing is there, however often one looks.

    Args:
        p_values: By the number of pairs, at least 3, the one-sided p value of Student's t.

    Example:
        >>> anytime_p_value({3: 0.2, 4: 0.001, 5: 0.002}) < 0.01
        True
    """
    return float(chance_of_factor(min(p * pairs**_DECAY for pairs, p in p_values.items())))


def chance_of_factor(factor: Any) -> Any:
    """The chance that a p value after ``n`` pairs, for any n from 3 on, is below ``factor * n ** -1.25``.

    Args:
        factor: A number, or an array of them.

    Example:
        >>> round(float(chance_of_factor(0.1)), 4)
        0.0575
    """
    import numpy as np

    inside = np.clip(factor, _FACTORS[0], _FACTORS[-1])
    chance = np.exp(np.interp(np.log(inside), np.log(_FACTORS), np.log(_CHANCES)))
    return np.minimum(chance * (factor / inside), 1.0)  # beyond the ends, it grows no faster than the factor


def confidence_at_look(looks: Sequence[int], confidence: float) -> float:
    """The confidence of the interval at the last look, so that those at all ``looks`` are right at once with ``confidence``.

    A look spends what looks after every pair would have spent since the one before it. Those before the third pair are free,
    since nothing is concluded from them.

    Args:
        looks: The number of pairs at each.
        confidence: Of all of them together.

    Example:
        >>> round(confidence_at_look([3, 4, 5], 0.95), 3), round(confidence_at_look([5], 0.95), 3)
        (0.99, 0.969)
    """
    counted = tuple(sorted({pairs for pairs in looks if FEWEST <= pairs <= looks[-1]}))
    if not counted:
        return confidence
    if counted == tuple(range(FEWEST, counted[-1] + 1)):
        return 1 - float(level_at(counted[-1], 1 - confidence))
    return 1 - _level_by_simulation(counted, 1 - confidence)


@lru_cache(maxsize=128)
def _level_by_simulation(looks: tuple[int, ...], error: float) -> float:
    """As many paths of differences without an effect cross by each of ``looks`` as would by a look after every pair."""
    import numpy as np
    from scipy.special import stdtr, stdtrit

    generator = np.random.default_rng(0)
    total, squares = np.zeros(_PATHS), np.zeros(_PATHS)
    by_any, by_looks = np.zeros(_PATHS, bool), np.zeros(_PATHS, bool)
    limit = 0.0
    for pairs in range(1, looks[-1] + 1):
        pair = generator.standard_normal(_PATHS)
        total += pair
        squares += pair * pair
        if pairs < FEWEST:
            continue
        # t² grows with this: it is pairs - 1 times it, divided by 1 less it.
        size = total * total / (pairs * squares)
        t = float(stdtrit(pairs - 1, 1 - level_at(pairs, error) / 2))
        usual = t * t / (t * t + pairs - 1)
        by_any |= size > usual
        if pairs in looks:
            left = size[~by_looks]
            place = len(left) - max(int(by_any.sum()) - int(by_looks.sum()), 1)
            limit = float(np.partition(left, place)[place])
            by_looks |= size >= limit
    t = math.sqrt((looks[-1] - 1) * limit / (1 - limit))
    return 2 * float(stdtr(looks[-1] - 1, -t))
