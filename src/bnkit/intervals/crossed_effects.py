"""Intervals for new examples: of differences that vary over seeds and over test examples, both drawn at random.

The differences of n pairs of runs on m test examples are a matrix with crossed random effects: of the seed, of the example, and of
both together. Its mean has the variance of the seeds' effects over n, plus that of the examples' effects over m, plus that of the
interaction over nm (Owen 2007, "The pigeonhole bootstrap"). The variance of the seeds' means has the first and the last; so

    half width² = t(n − 1)² · variance of the seed means / n  +  t(m − 1)² · variance of the examples' effects / m,

where the last is the variance of the example means minus the interaction's part, which the first term already has. An interval
of this form has at least its nominal coverage (Banerjee 1961, "On confidence interval for two-means problem based on separate
estimates of variances and tabulated values of t-table"). Satterthwaite's degrees of freedom for the sum of the variances would
make intervals up to a quarter narrower, but with three seeds cover in 92 of 100 cases only: ``tests`` have both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any

from bnkit.intervals.interval import CONFIDENCE, Interval
from bnkit.intervals.student import standard_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More halvings than a float64 has digits, from 1 to the smallest p value that is distinguished from 0.
_HALVINGS, _SMALLEST = 100, 1e-300


@dataclass(frozen=True)
class CrossedInterval(Interval):
    """A mean with its confidence interval for new examples and new seeds.

    Attributes:
        examples: The number of test examples.
        recorded: For how many of the n pairs the score of each example is recorded; if for none, the examples are assumed to
            differ as much as the accuracies allow.
        from_examples: The share of the squared width that comes from the choice of the test examples, 0 to 1.
    """

    examples: int = 0
    recorded: int = 0
    from_examples: float = 0.0


@dataclass(frozen=True)
class ExampleSpread:
    """How paired differences vary from one test example to the next.

    Attributes:
        count: The number of examples, m.
        variance: The variance of the examples' effects, which all pairs share.
        recorded: The number of pairs with recorded scores; 0 if the variance is an upper bound.
        adjusted: For right and wrong answers, the mean difference over the examples and its standard error with pseudo-examples
            added, so that the error is not 0 if no answers differ; None for other scores.
    """

    count: int
    variance: float
    recorded: int
    adjusted: tuple[float, float] | None = None

    def supposed(self, shift: float, count: int) -> ExampleSpread:
        """The spread of ``count`` such examples, if the mean difference were ``shift`` larger: for estimates.

        Examples:
            >>> largest_spread(0.0, 0.1, 100).supposed(0.0, 400) == largest_spread(0.0, 0.1, 400)
            True
        """
        adjusted = self.adjusted
        if adjusted is not None:
            centre, error = adjusted
            mean = centre * (self.count + 2) / self.count
            discordant = ((error**2 * (self.count + 2) + centre**2) * (self.count + 2) - 2) / self.count
            mean = min(max(mean + shift, -1.0), 1.0)
            adjusted = _adjusted(mean * count, max(round(discordant, 12), abs(mean)) * count, count)
        return ExampleSpread(count, self.variance, self.recorded, adjusted)


def example_spread(differences: NDArray[Any], *, single_answers: bool) -> ExampleSpread | None:
    """How ``differences`` vary over examples; None for fewer than two examples.

    Args:
        differences: (pairs, examples); −1, 0 and 1 for right and wrong answers.
        single_answers: Whether they are differences of right and wrong answers.

    Examples:
        >>> import numpy as np
        >>> example_spread(np.array([[0, 1, 0, 0], [0, 1, 0, -1]]), single_answers=False)
        ExampleSpread(count=4, variance=0.3333..., recorded=2, adjusted=None)
    """
    pairs, count = differences.shape
    if count < 2 or pairs < 1:
        return None
    of_examples = differences.mean(0, dtype=float)
    variance = float(of_examples.var(ddof=1))
    if pairs > 1:  # subtract the interaction's part of the example means
        residuals = differences - of_examples - differences.mean(1, dtype=float)[:, None] + of_examples.mean()
        variance -= float((residuals**2).sum()) / ((pairs - 1) * (count - 1)) / pairs
    total, squares = float(of_examples.sum()), float((of_examples**2).sum())
    adjusted = _adjusted(total, squares, count) if single_answers else None
    return ExampleSpread(count, max(variance, 0.0), pairs, adjusted)


def largest_spread(difference: float, discordant: float, count: int) -> ExampleSpread:
    """An upper bound for the spread of right and wrong answers over examples, for runs that did not record them.

    Args:
        difference: The difference of the two accuracies.
        discordant: The largest possible share of answers that only one of the networks got right.
        count: The number of answers.

    Examples:
        >>> spread = largest_spread(0.0, most_discordant(0.9, 0.9), 10_000)
        >>> round(spread.variance, 3), spread.recorded
        (0.2, 0)
    """
    squares = discordant * count
    return ExampleSpread(count, max(discordant - difference**2, 0.0), 0, _adjusted(difference * count, squares, count))


def most_discordant(first: float, second: float) -> float:
    """The largest possible share of answers that only one of two networks with these accuracies got right."""
    return min(first, 1 - second) + min(second, 1 - first)


def interval_for_new_examples(
    values: Sequence[float],
    spread: ExampleSpread,
    these: Interval,
    *,
    resolution: float = 0.0,
    confidence: float = CONFIDENCE,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> CrossedInterval:
    """The interval for new seeds and new examples; it contains ``these``.

    Args:
        values: The difference of each pair, over all examples.
        spread: How they vary over the examples.
        these: The interval for new seeds and these examples, with the same confidence.
        resolution: The step in which the values are counted, as for ``mean_interval``.
        confidence: The confidence of the interval.
        limits: The smallest and the largest possible value.

    Examples:
        >>> from bnkit.intervals.proportions import difference_interval
        >>> these = difference_interval([0.0, 0.0, 0.0], 100)
        >>> wider = interval_for_new_examples([0.0] * 3, largest_spread(0.0, 0.0, 100), these, resolution=0.01)
        >>> round(these.high, 4), round(wider.high, 4), wider.counted
        (0.0192, 0.0272, 100)
    """
    mean, n = fmean(values), len(values)
    if these.low is None or these.high is None:
        return CrossedInterval(mean, None, None, n, None, spread.count, spread.recorded)
    by_seeds, by_examples = _half_widths(values, spread, resolution, 1 - confidence)
    half = math.hypot(by_seeds, by_examples)
    low, high, counted = mean - half, mean + half, None
    if these.low < low or these.high > high:
        low, high, counted = min(low, these.low), max(high, these.high), these.counted
    if spread.adjusted is not None:
        centre, error = spread.adjusted
        half = NormalDist().inv_cdf((1 + confidence) / 2) * error
        if centre - half < low or centre + half > high:
            low, high, counted = min(low, centre - half), max(high, centre + half), spread.count
    squares = by_seeds**2 + by_examples**2
    from_examples = 1.0 if counted is not None else by_examples**2 / squares if squares else 0.0
    low, high = max(low, limits[0]), min(high, limits[1])
    return CrossedInterval(mean, low, high, n, counted, spread.count, spread.recorded, from_examples)


def p_value_for_new_examples(
    values: Sequence[float], spread: ExampleSpread, p_these: float, *, resolution: float = 0.0
) -> float:
    """1 minus the confidence of the widest ``interval_for_new_examples`` that excludes 0.

    Args:
        values: As for that interval, at least two.
        spread: As for that interval.
        p_these: The p value for new seeds and these examples.
        resolution: As for that interval.
    """
    mean = abs(fmean(values))
    if mean == 0:
        return 1.0
    p_counted = 0.0
    if spread.adjusted is not None:
        centre, error = spread.adjusted
        p_counted = 2 * NormalDist().cdf(-abs(centre) / error)
    error = standard_error(values, resolution)
    return max(p_these, p_counted, 2 * one_sided_p_value(mean, error, len(values), spread))


def one_sided_p_value(distance: float, error: float, pairs: int, spread: ExampleSpread) -> float:
    """The p value of "the mean is not above a value" for new seeds and examples.

    It is half of the error rate at which the interval for new examples ends at that value.

    Args:
        distance: The mean minus that value.
        error: The standard error of the mean over the seeds.
        pairs: The number of seeds.
        spread: How the differences vary over the examples.

    Examples:
        >>> round(one_sided_p_value(2.0, 1.0, 5, ExampleSpread(100, 0.0, 5)), 3)  # Student's t
        0.058
    """
    from scipy.special import stdtrit

    by_examples = math.sqrt(spread.variance / spread.count)
    low, high = math.log(_SMALLEST), math.log(0.5)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        quantiles = (-float(stdtrit(freedom, math.exp(middle))) for freedom in (pairs - 1, spread.count - 1))
        leaves_out = math.hypot(*(q * e for q, e in zip(quantiles, (error, by_examples), strict=True))) < abs(distance)
        low, high = (low, middle) if leaves_out else (middle, high)
    p = math.exp(high)
    return p if distance > 0 else 1 - p


def _half_widths(
    values: Sequence[float], spread: ExampleSpread, resolution: float, error_rate: float
) -> tuple[float, float]:
    """The half widths from the seeds and from the examples."""
    from scipy.special import stdtrit

    by_seeds = -float(stdtrit(len(values) - 1, error_rate / 2)) * standard_error(values, resolution)
    return by_seeds, half_width_from_examples(spread, error_rate)


def half_width_from_examples(spread: ExampleSpread, error_rate: float) -> float:
    """The part of the half width of an interval for new examples that comes from the examples.

    Examples:
        >>> round(half_width_from_examples(ExampleSpread(100, 0.25, 5), 0.05), 3)
        0.099
    """
    from scipy.special import stdtrit

    return -float(stdtrit(spread.count - 1, error_rate / 2)) * math.sqrt(spread.variance / spread.count)


def _adjusted(total: float, squares: float, count: int) -> tuple[float, float]:
    """The mean of differences of answers and its standard error, with one pseudo-example added for each network alone.

    Bonett & Price (2012), "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data": if
    few answers differ, it has its nominal coverage, unlike the interval of Agresti & Min (2005), which adds half an example.
    """
    mean = total / (count + 2)
    return mean, math.sqrt(((squares + 2) / (count + 2) - mean**2) / (count + 2))
