"""The error rate that each look may spend, so that all looks together keep the promised rate.

To look at an interval after every pair of seeds, and to stop when it excludes 0, is wrong more often than a single look: five
looks at 95 % are wrong in one case of eight. Lan & DeMets (1983, "Discrete sequential boundaries for clinical trials") divide
the error rate: up to ``n`` pairs, the looks may spend what a fixed function allows, independently of later looks.

With a look after every pair from the third on, the limit of the one-sided p value is proportional to ``n ** -1.25``. Of the shapes
compared, this one decides soonest (``python -m benchmarks.sequential``; O'Brien & Fleming's, Pocock's and confidence sequences
are among them). It spends two fifths at the third pair and four fifths by the eighth, because most differences between networks
are either large against the spread of the seeds, or zero. The factor is exact for Student's t of normal differences: the joint
distribution of t after 3, 4, 5, … pairs does not depend on their mean and deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from bnkit.intervals.interval import FEWEST

_DECAY = 1.25
# Factors of the limits n ** -1.25, and for each the chance that any p value from the third pair to the thousandth is below its
# limit, from ``python -m benchmarks.sequential --calibrate``, with errors below 1 %. The first entry bounds smaller factors.
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
# Enough to know the limits of a few looks to 1 %.
_PATHS = 200_000


def level_at(pairs: Any, error: float) -> Any:
    """The error rate of the interval after ``pairs`` pairs, with a look after every pair.

    Args:
        pairs: The number of pairs, at least 3; or an array of such numbers.
        error: The chance that any of the intervals misses.

    Examples:
        >>> [round(level_at(pairs, 0.05), 3) for pairs in (3, 5, 10, 50)]
        [0.019, 0.01, 0.004, 0.001]
    """
    import numpy as np

    factor = math.exp(np.interp(math.log(error / 2), np.log(_CHANCES), np.log(_FACTORS)))
    return 2 * factor * pairs**-_DECAY


def anytime_p_value(p_values: Mapping[int, float]) -> float:
    """One p value for all looks: under the null hypothesis it is below ``a`` with probability at most ``a``, for any number of looks.

    Args:
        p_values: The one-sided p value of Student's t by the number of pairs, which is at least 3.

    Examples:
        >>> anytime_p_value({3: 0.2, 4: 0.001, 5: 0.002}) < 0.01
        True
    """
    return float(chance_of_factor(min(p * pairs**_DECAY for pairs, p in p_values.items())))


def chance_of_factor(factor: Any) -> Any:
    """The chance that a p value after ``n`` pairs, for any n from 3 on, is below ``factor * n ** -1.25``.

    Args:
        factor: A number, or an array of them.

    Examples:
        >>> round(float(chance_of_factor(0.1)), 4)
        0.0575
    """
    import numpy as np

    inside = np.clip(factor, _FACTORS[0], _FACTORS[-1])
    chance = np.exp(np.interp(np.log(inside), np.log(_FACTORS), np.log(_CHANCES)))
    return np.minimum(chance * (factor / inside), 1.0)  # beyond the ends, it grows no faster than the factor


def confidence_at_look(looks: Sequence[int], confidence: float) -> float:
    """The confidence of the interval at the last look, such that the intervals at all ``looks`` hold together with ``confidence``.

    A look spends the share that looks after every pair since the previous look would have spent. Looks before the third pair cost
    nothing, because they lead to no verdict.

    Args:
        looks: The number of pairs at each look.
        confidence: The confidence of all looks together.

    Examples:
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
    """The level at the last look, simulated: by each look, as many null paths have crossed as with a look after every pair."""
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
        # t² is a monotone function of this size: t² = (pairs - 1) size / (1 - size).
        size = total * total / (pairs * squares)
        t = float(stdtrit(pairs - 1, 1 - level_at(pairs, error) / 2))
        usual = t * t / (t * t + pairs - 1)
        by_any |= size > usual
        if pairs in looks:
            left = size[~by_looks]
            index = len(left) - max(int(by_any.sum()) - int(by_looks.sum()), 1)
            limit = float(np.partition(left, index)[index])
            by_looks |= size >= limit
    t = math.sqrt((looks[-1] - 1) * limit / (1 - limit))
    return 2 * float(stdtr(looks[-1] - 1, -t))
