"""Designs that allow looking again, by simulated sweeps: how often they are wrong, and after how many pairs they decide.

    python -m benchmarks.sequential                     # 10,000 sweeps a row: five minutes
    python -m benchmarks.sequential --sweeps 1000
    python -m benchmarks.sequential --calibrate         # the constants of src/bnkit/intervals/alpha_spending.py

A sweep adds pairs of seeds, looks after each from the third on, and stops at a verdict or after 50. A verdict is wrong if it is a gain
without one, a loss without one, or "less than the margin" of more than that. All in deviations of a difference between seeds (1 point
of accuracy is a usual one), so that a margin of 2 is two points.

- spending: Lan & DeMets's (1983) alpha spending, exact for Student's t; limits in proportion to n ** -1.25. The one in src.
- Pocock, O'Brien-Fleming: the same with their shapes of limits.
- t mixture: the confidence sequence of Wang & Ramdas (2023) for an unknown variance, Gaussian mixture over the effect.
- mixture, plug-in: that of Howard et al. (2021) for a known variance, with the deviation that was seen.
- betting: Waudby-Smith & Ramdas (2024) for differences between -100 and 100 points, hedged.
- fixed five: Student's t after five pairs, and no more.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from bnkit.intervals.alpha_spending import chance_of_factor, level_at
from bnkit.intervals.interval import FEWEST, Conclusion, Interval, conclude
from bnkit.report.contrasts.diverged_runs import Divergence
from bnkit.report.objective_metric import Objective

Array = np.ndarray[Any, Any]
MOST, ERROR = 50, 0.05
PAIRS = np.arange(FEWEST, MOST + 1)
# What validation adds to a run's test figure, and the gap of two rates that it explains, at the confidence of ``--until``.
_VALIDATION = 0.5
_CHANCE = 1.44 * math.sqrt(2) * _VALIDATION


@dataclass(frozen=True)
class Sweeps:
    """Paired differences of many sweeps.

    Attributes:
        differences: (sweeps, pairs).
        truth: The mean difference, one a sweep, or one a look of each.
        examples: The variance of the mean over the test examples, as estimated; 0 where only seeds count. One a sweep.
        answers: How many test examples there are, for the degrees of freedom of that variance.
        moments: Mean and variance at each look, where earlier differences are not those of later looks; (sweeps, looks).
    """

    differences: Array
    truth: Array
    examples: Array | float = 0.0
    answers: int = 0
    moments: tuple[Array, Array] | None = None


# From sweeps to what may be concluded after each number of pairs: the lower and the upper ends, (sweeps, looks).
Design = Callable[[Sweeps], tuple[Array, Array]]


def by_limits(levels: Array) -> Design:
    """Student's t with another error rate at each look."""

    def ends(sweeps: Sweeps) -> tuple[Array, Array]:
        mean, variance = sweeps.moments or _moments(sweeps.differences)
        squared = stdtrit(PAIRS - 1, 1 - levels / 2) ** 2 * variance / PAIRS
        if sweeps.answers:  # Banerjee (1961), as in src/bnkit/intervals
            squared = squared + stdtrit(sweeps.answers - 1, 1 - levels / 2) ** 2 * np.asarray(sweeps.examples)[:, None]
        half = np.sqrt(squared)
        return mean - half, mean + half

    return ends


def t_mixture(scale: float) -> Design:
    """Wang & Ramdas: the mixture over effects of deviation 1 / sqrt(scale), by the invariant prior of the deviation."""
    share = scale / (PAIRS + scale)
    ratio = (ERROR**2 * share) ** (-1 / PAIRS)
    with np.errstate(divide="ignore"):
        t = np.sqrt(np.where(ratio * share < 1, (ratio - 1) / np.maximum(1 - ratio * share, 0), np.inf) * (PAIRS - 1))
    return by_limits(2 * stdtr(PAIRS - 1, -t))


def plug_in_mixture(scale: float) -> Design:
    """Howard et al.: the boundary of a normal mixture for a known variance."""
    z = np.sqrt((PAIRS + scale) / PAIRS * np.log((PAIRS + scale) / (scale * ERROR**2)))
    return by_limits(2 * stdtr(PAIRS - 1, -z))


@cache
def obrien_fleming() -> Array:
    """Levels of a boundary in proportion to 1 / sqrt(pairs)."""
    return _calibrated(lambda z: 2 * ndtr(-z * np.sqrt(MOST / PAIRS)), 1.5, 4.0)


@cache
def pocock() -> Array:
    """The same level at every look."""
    return _calibrated(lambda z: np.full(len(PAIRS), 2 * ndtr(-z)), 1.5, 4.0)


def _calibrated(levels: Callable[[float], Array], low: float, high: float) -> Array:
    p_values = _null_p_values(20_000)
    for _ in range(30):
        middle = (low + high) / 2
        wrong = (p_values <= levels(middle)).any(1).mean() > ERROR
        low, high = (middle, high) if wrong else (low, middle)
    return levels(high)


@cache
def _null_p_values(sweeps: int) -> Array:
    mean, variance = _moments(np.random.default_rng(9).standard_normal((sweeps, MOST)))
    return 2 * stdtr(PAIRS - 1, -np.abs(mean) / np.sqrt(variance / PAIRS))


def fixed_five(sweeps: Sweeps) -> tuple[Array, Array]:
    """Student's t after five pairs, at no other look."""
    low, high = by_limits(np.full(len(PAIRS), ERROR))(sweeps)
    low[:, PAIRS != 5], high[:, PAIRS != 5] = -np.inf, np.inf
    return low, high


def betting(unit: float, margins: Array) -> Design:
    """The hedged capital of bets on the mean of differences between -1 and 1.

    Args:
        unit: One deviation between seeds, as a difference of accuracies.
        margins: The ends are known only as far as they leave out one of these values.
    """

    def ends(sweeps: Sweeps) -> tuple[Array, Array]:
        if sweeps.moments is not None:  # it bets on each difference once, before it is known
            nothing = np.full(sweeps.moments[0].shape, np.inf)
            return -nothing, nothing
        x = np.clip((sweeps.differences * unit + 1) / 2, 0, 1)
        n = np.arange(1, MOST + 1)
        mean = (0.5 + x.cumsum(1)) / (n + 1)
        variance = (0.25 + ((x - mean) ** 2).cumsum(1)) / (n + 1)
        before = np.concatenate([np.full((len(x), 1), 0.25), variance[:, :-1]], 1)
        bet = np.sqrt(2 * np.log(2 / ERROR) / (before * n * np.log(n + 1)))
        low, high = np.full((len(x), len(PAIRS)), -np.inf), np.full((len(x), len(PAIRS)), np.inf)
        for value in np.sort(margins):
            at = (value * unit + 1) / 2
            more = np.log1p(np.minimum(bet, 0.5 / at) * (x - at)).cumsum(1)
            less = np.log1p(-np.minimum(bet, 0.5 / (1 - at)) * (x - at)).cumsum(1)
            limit = np.log(2 / ERROR)
            above, below = (side[:, FEWEST - 1 :] >= limit for side in (more, less))
            low = np.where(above, np.maximum(low, value + 1e-9), low)
            high = np.where(below & (high == np.inf), value - 1e-9, high)
        return low, high

    return ends


def _moments(differences: Array) -> tuple[Array, Array]:
    """Mean and variance after each number of pairs from the third on."""
    n = np.arange(1, differences.shape[1] + 1)
    mean = differences.cumsum(1) / n
    steps = (differences[:, 1:] - mean[:, :-1]) ** 2 * n[:-1] / n[1:]
    variance = steps.cumsum(1) / n[:-1]
    return mean[:, FEWEST - 1 :], variance[:, FEWEST - 2 :]


@dataclass(frozen=True)
class Outcome:
    """What became of many sweeps.

    Attributes:
        wrong, decided: Shares of them.
        pairs: The median of those that a sweep took, ``MOST`` where it was not decided.
    """

    wrong: float
    decided: float
    pairs: float


def outcome_of(design: Design, sweeps: Sweeps, margin: float) -> Outcome:
    """Each sweep stops at its first verdict."""
    low, high = design(sweeps)
    truth = sweeps.truth if sweeps.truth.ndim == 2 else sweeps.truth[:, None]
    gain, loss = low > 0, high < 0
    nothing = (low >= -margin) & (high <= margin) & ~gain & ~loss
    concluded = gain | loss | nothing
    first = concluded.argmax(1)[:, None]
    is_decided = concluded.any(1)
    mistake = (gain & (truth <= 0)) | (loss & (truth >= 0)) | (nothing & (np.abs(truth) > margin + 1e-9))
    wrong = np.take_along_axis(mistake, first, 1)[:, 0] & is_decided
    pairs = np.where(is_decided, PAIRS[first[:, 0]], MOST)
    return Outcome(float(wrong.mean()), float(is_decided.mean()), float(np.median(pairs)))


# -- sweeps


def seeds_alone(generator: np.random.Generator, count: int, effect: float) -> Sweeps:
    """Normal differences of deviation 1."""
    return Sweeps(effect + generator.standard_normal((count, MOST)), np.full(count, effect))


def collapsing(generator: np.random.Generator, count: int, effect: float, share: float = 0.05) -> Sweeps:
    """As ``seeds_alone``, but a share of the runs finishes 80 deviations worse. The truth counts them.

    A run that diverges is another case: it has no difference, is counted apart, and may leave no verdict (``verdicts_of_diverging``).
    """
    collapsed = generator.random((count, MOST)) < share
    found = effect + generator.standard_normal((count, MOST)) - 80 * collapsed
    return Sweeps(found, np.full(count, effect - 80 * share))


def skewed(generator: np.random.Generator, count: int, effect: float) -> Sweeps:
    """Differences with a long tail to one side: exponential, of deviation 1."""
    return Sweeps(effect + 1 - generator.standard_exponential((count, MOST)), np.full(count, effect))


def crossed(
    generator: np.random.Generator, count: int, effect: float, answers: int, discordant: float = 0.06
) -> Sweeps:
    """Seeds and test examples vary: ``discordant`` of the answers differ, half of that by the example, half by chance.

    In points of accuracy, as one deviation between seeds. The truth is that of new examples.
    """
    example, rest = (100 * np.sqrt(discordant / 2),) * 2
    by_example = generator.standard_normal(count) * example / np.sqrt(answers)
    by_seed = generator.standard_normal((count, MOST)) * np.sqrt(1 + rest**2 / answers)
    # The variance of the examples is known by so many of them; what the answers' chance adds to it was taken away.
    known = generator.chisquare(answers - 1, count) / (answers - 1)
    return Sweeps(effect + by_example[:, None] + by_seed, np.full(count, effect), known * example**2 / answers, answers)


def rate_chosen(
    generator: np.random.Generator, count: int, effect: float, flat: bool = True, dropping: bool = True
) -> Sweeps:
    """Of four learning rates each network is compared at its best by validation. Validation and test share a run's noise.

    Args:
        generator: Of all chance.
        count: How many sweeps.
        effect: Of the second network.
        flat: Whether the first network has four equal rates, so that choosing flatters it most, and the second only one good rate.
        dropping: Whether rates are dropped as ``--until`` does: those worse by more than the chance of the validation answers explains
            after the first and the second seed, all but the best after the third; and those seeds are compared too. Otherwise the
            best is chosen again at every look, among all rates and all seeds.
    """
    even, one_good = np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.0, -5.0, -5.0, -5.0])
    uneven = np.array([0.0, -0.5, -1.0, -3.0])
    networks = [_Sweep.drawn(generator, count, rates) for rates in ((even, one_good) if flat else (uneven, uneven))]
    if dropping:
        (first, chosen), (second, other) = (network.dropped() for network in networks)
        return Sweeps(effect + second - first, effect + other - chosen)
    first, second = (network.chosen_anew() for network in networks)
    truth, means, variances = [], [], []
    for pairs in PAIRS:
        rates = [network[pairs - FEWEST] for network in (first, second)]
        of_runs = [
            np.take_along_axis(network.test[..., :pairs], rate[:, None, None], 1)[:, 0]
            for network, rate in zip(networks, rates, strict=True)
        ]
        difference = effect + of_runs[1] - of_runs[0]
        means.append(difference.mean(1))
        variances.append(difference.var(1, ddof=1))
        truth.append(effect + networks[1].rates[rates[1]] - networks[0].rates[rates[0]])
    return Sweeps(np.empty(0), np.stack(truth, 1), moments=(np.stack(means, 1), np.stack(variances, 1)))


@dataclass(frozen=True)
class _Sweep:
    """One network at four learning rates: the true mean of each, and (sweeps, rates, pairs) figures."""

    rates: Array
    test: Array
    validation: Array

    @classmethod
    def drawn(cls, generator: np.random.Generator, count: int, rates: Array) -> _Sweep:
        test = rates[:, None] + generator.standard_normal((count, 4, MOST)) / np.sqrt(2)  # a difference has deviation 1
        return cls(rates, test, test + generator.normal(0, _VALIDATION, test.shape))

    def dropped(self) -> tuple[Array, Array]:
        """The test figures at the rate that is left, and its true mean."""
        left = np.ones(self.validation.shape[:2], bool)
        for seeds in (1, 2):
            mean = np.where(left, self.validation[..., :seeds].mean(2), -np.inf)
            left &= mean >= mean.max(1, keepdims=True) - _CHANCE
        best = np.where(left, self.validation[..., :FEWEST].mean(2), -np.inf).argmax(1)
        return np.take_along_axis(self.test, best[:, None, None], 1)[:, 0], self.rates[best]

    def chosen_anew(self) -> list[Array]:
        """The place of the best rate at every look."""
        sums = self.validation.cumsum(2)
        return [sums[..., pairs - 1].argmax(1) for pairs in PAIRS]


# -- the tables

MARGIN = 2.0


def designs() -> dict[str, Design]:
    """All that are compared, by name."""
    usual = np.asarray(level_at(PAIRS.astype(float), ERROR))
    return {
        "fixed five": fixed_five,
        "spending": by_limits(usual),
        "Pocock": by_limits(pocock()),
        "O'Brien-Fleming": by_limits(obrien_fleming()),
        "t mixture": t_mixture(0.1),
        "mixture, plug-in": plug_in_mixture(10.0),
        "betting": betting(0.01, np.array([-MARGIN, 0.0, MARGIN])),
    }


def rows(
    effects: tuple[float, ...] = (0, 0.5, 1, 2.01, 3, 5, 10),
) -> Iterator[tuple[str, Callable[..., Sweeps], dict[str, Any]]]:
    """What is simulated: a name, what draws it, and its arguments."""
    for effect in effects:
        yield f"normal, {effect:g}", seeds_alone, {"effect": float(effect)}
    for effect in (0.0, 2.01):
        yield f"skewed, {effect:g}", skewed, {"effect": effect}
    for share in (0.01, 0.05, 0.3):
        yield f"{share:.0%} collapse", collapsing, {"effect": 0.0, "share": share}
    for answers in (200, 2_000, 10_000):
        for effect in (0.0, 2.01):
            yield f"{answers:,} examples, {effect:g}", crossed, {"effect": effect, "answers": answers}
    for dropping in (True, False):
        for flat in (True, False):
            for effect in (0.0, 2.01):
                name = f"{'flat' if flat else 'uneven'} rates, {'dropped' if dropping else 'chosen again'}, {effect:g}"
                yield name, rate_chosen, {"effect": effect, "flat": flat, "dropping": dropping}


def simulate(draw: Callable[..., Sweeps], sweeps: int, design: Design, seed: int = 0, **arguments: Any) -> Outcome:
    """``sweeps`` of one row under one design."""
    return outcome_of(design, draw(np.random.default_rng(seed), sweeps, **arguments), MARGIN)


# -- runs that diverge


def verdicts_of_diverging(generator: np.random.Generator, count: int, effect: float, share: float) -> dict[str, float]:
    """What ``--until`` says of a second network that diverges in a share of the seeds: the share of the sweeps by verdict.

    A run that diverged has no difference; it is counted, as 80 deviations worse, by ``Divergence.agrees_with``.
    """
    objective, found = Objective("deviations", False, False), dict.fromkeys(("gain", "loss", "nothing", "none"), 0.0)
    limits = stdtrit(PAIRS - 1, 1 - np.asarray(level_at(PAIRS.astype(float), ERROR)) / 2)
    for _ in range(count):
        lost = generator.random(MOST) < share
        values = effect + generator.standard_normal(MOST)
        found[_verdict_of_diverging(values, lost, limits, objective)] += 1 / count
    return found


def _verdict_of_diverging(values: Array, lost: Array, limits: Array, objective: Objective) -> str:
    for seeds in range(FEWEST, MOST + 1):
        finished = values[:seeds][~lost[:seeds]]
        if len(finished) < FEWEST:
            continue
        mean, half = (
            float(finished.mean()),
            limits[len(finished) - FEWEST] * finished.std(ddof=1) / len(finished) ** 0.5,
        )
        verdict = conclude(Interval(mean, mean - half, mean + half, len(finished)), MARGIN)
        if verdict is Conclusion.UNKNOWN:
            continue
        diverged = int(lost[:seeds].sum())
        of_all = (finished.sum() - 80 * diverged) / seeds
        if Divergence(seeds, 0, diverged, 0.0, mean, float(of_all)).agrees_with(verdict, objective, MARGIN):
            return verdict.value
    return "none"


# -- tables of claims


@dataclass(frozen=True)
class Tables:
    """What became of tables of claims.

    Attributes:
        wrong: The share of the tables with a wrong verdict.
        decided: The share of the claims that are decided.
        pairs: The median of the pairs that a claim took.
    """

    wrong: float
    decided: float
    pairs: float


def claims_tables(
    generator: np.random.Generator, count: int, claims: int = 27, matters: float = 1.0
) -> dict[str, Tables]:
    """Tables of claims that are looked at after every pair, half of them without effect, half with just what matters.

    Two questions a claim, as ``bnkit claims`` has them: is the effect above nothing, is it below what matters? Of each claim one of
    them is wrong by a hair, which is the worst case. By Holm's procedure over p values of all looks, over those of the last look, and
    by e-BH (Wang & Ramdas 2022, "False discovery rate control with e-values") over the t mixture's e-values of that look.
    """
    effects = np.where(np.arange(claims) % 2, matters, 0.0)
    mean, variance = _moments(
        (effects[:, None] + generator.standard_normal((count, len(effects), MOST))).reshape(-1, MOST)
    )
    mean, error = (x.reshape(count, len(effects), -1) for x in (mean, np.sqrt(variance / PAIRS)))
    t = np.concatenate([mean / error, (matters - mean) / error], 1)
    p_values = stdtr(PAIRS - 1, -t)
    of_looks = chance_of_factor(np.minimum.accumulate(p_values * PAIRS**1.25, 2))
    share, ratio = 0.1 / (PAIRS + 0.1), t**2 / (PAIRS - 1)
    # Half of a mixture to both sides is one to this side, but for what of it lies on the other.
    e_values = np.where(t > 0, np.sqrt(share) * ((1 + ratio) / (1 + share * ratio)) ** (PAIRS / 2), 0.0)
    untrue = np.concatenate([effects <= 0, effects >= matters])
    rejected = {
        "Holm, p values of all looks": _holm(of_looks),
        "Holm, each look by itself": _holm(p_values),
        "e-BH": _e_bh(e_values),
    }
    return {name: _tables(found, untrue, len(effects)) for name, found in rejected.items()}


def _holm(p_values: Array) -> Array:
    order = np.sort(p_values, 1)
    questions = p_values.shape[1]
    passes = order * np.arange(questions, 0, -1)[:, None] <= ERROR
    rejected = np.cumprod(passes, 1).sum(1, keepdims=True)  # of each table at each look
    limit = np.take_along_axis(np.concatenate([np.full_like(order[:, :1], -1), order], 1), rejected, 1)
    return p_values <= limit


def _e_bh(e_values: Array) -> Array:
    order = -np.sort(-e_values, 1)
    questions = e_values.shape[1]
    ranks = np.arange(1, questions + 1)[:, None]
    rejected = ((order >= questions / (ERROR * ranks)) * ranks).max(1, keepdims=True)
    limit = np.take_along_axis(np.concatenate([np.full_like(order[:, :1], np.inf), order], 1), rejected, 1)
    return e_values >= limit


def _tables(rejected: Array, untrue: Array, claims: int) -> Tables:
    by_now = np.logical_or.accumulate(rejected, 2)
    decided = by_now[:, :claims] | by_now[:, claims:]
    pairs = np.where(decided.any(2), PAIRS[decided.argmax(2)], MOST)
    wrong = by_now[:, untrue, -1].any(1).mean()
    return Tables(float(wrong), float(decided[..., -1].mean()), float(np.median(pairs)))


def main() -> None:
    """Print the tables, or the constants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweeps", type=int, default=10_000)
    parser.add_argument("--calibrate", action="store_true")
    given = parser.parse_args()
    if given.calibrate:
        for factor, chance, error in crossing_chances():
            print(f"{factor:<8g} {chance:.4g} (± {error:.1%})")
        return
    known = designs()
    print(
        f"wrong verdicts, median of pairs (— where most are open after {MOST}); margin {MARGIN:g}, {given.sweeps:,} sweeps"
    )
    print("| | " + " | ".join(known) + " |\n|---|" + "---|" * len(known))
    for name, draw, arguments in rows():
        sweeps = draw(np.random.default_rng(0), given.sweeps, **arguments)
        cells = [outcome_of(design, sweeps, MARGIN) for design in known.values()]
        print(
            f"| {name} | " + " | ".join(_cell(cell, design) for cell, design in zip(cells, known, strict=True)) + " |",
            flush=True,
        )
    print(
        "\na second network that diverges in a share of the seeds: what is said of it"
        "\n| its gain where it finishes | diverges | gain | loss | nothing | no verdict |\n|---|---|---|---|---|---|"
    )
    for effect in (0.0, 3.0, 10.0):
        for share in (0.01, 0.05, 0.3):
            said = verdicts_of_diverging(np.random.default_rng(0), max(1, given.sweeps // 5), effect, share)
            print(
                f"| {effect:g} | {share:.0%} | " + " | ".join(f"{part:.1%}" for part in said.values()) + " |",
                flush=True,
            )
    print(
        "\ntables of 27 claims\n| | what matters | a wrong verdict in | claims decided | pairs a claim |\n|---|---|---|---|---|"
    )
    for matters in (1.0, 2.0, 4.0):
        tables = claims_tables(np.random.default_rng(0), max(1, given.sweeps // 10), matters=matters)
        for name, found in tables.items():
            print(f"| {name} | {matters:g} | {found.wrong:.1%} | {found.decided:.0%} | {found.pairs:.0f} |", flush=True)


def _cell(outcome: Outcome, design: str) -> str:
    if design == "fixed five":
        return f"{outcome.wrong:.1%}, decides {outcome.decided:.0%}"
    return f"{outcome.wrong:.1%}, {'—' if outcome.decided < 0.5 else f'{outcome.pairs:.0f}'}"


# -- the constants

_FACTORS = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
# Of the deviation of the drift; 0 is no drift at all.
_SPREADS = np.array([0.0, 0.0, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000])


def crossing_chances(rounds: int = 60) -> Iterator[tuple[float, float, float]]:
    """A factor of the limits n ** -1.25, the chance that a one-sided p value of up to 1,000 pairs is below, its relative error.

    By importance sampling: paths with and without drift, weighted by how much likelier their t is without. For a drift that is
    normal that likelihood ratio is the t mixture's, and depends on t alone.
    """
    generator, limits = np.random.default_rng(3), {}
    for pairs in (60, 1_000):
        looks = np.arange(FEWEST, pairs + 1)
        limits[pairs] = [stdtrit(looks - 1, 1 - np.minimum(factor * looks**-1.25, 0.999)) for factor in _FACTORS]
    found = np.zeros((rounds, len(_FACTORS)))
    for row in found:
        for spread in _SPREADS:
            pairs = 1_000 if spread < 1 else 60
            x = generator.standard_normal((1_000, pairs)) + spread * generator.standard_normal((1_000, 1))
            mean, variance = _moments(x)
            t = mean / np.sqrt(variance / np.arange(FEWEST, pairs + 1))
            for place, limit in enumerate(limits[pairs]):
                is_crossed = t > limit
                paths = is_crossed.any(1)
                look = is_crossed.argmax(1)[paths]
                n, reached = (look + FEWEST)[:, None], t[paths, look][:, None]
                share, ratio = 1 / (1 + n * _SPREADS**2), reached**2 / (n - 1)
                likelihood = np.sqrt(share) * ((1 + ratio) / (1 + share * ratio)) ** (n / 2)
                row[place] += (1 / likelihood.mean(1)).sum() / (1_000 * len(_SPREADS))
    errors = found.std(0, ddof=1) / np.sqrt(rounds)
    yield from zip(_FACTORS, found.mean(0), errors / found.mean(0), strict=True)


if __name__ == "__main__":
    main()
