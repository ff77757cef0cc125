"""Looking again: the promise over all looks, by simulation, and what is concluded at the edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import stdtr

from benchmarks import sequential as simulated
from bnkit.errors import SettingsError
from bnkit.intervals.alpha_spending import anytime_p_value, confidence_at_look, level_at
from bnkit.intervals.interval import Conclusion
from bnkit.intervals.proportions import difference_interval
from bnkit.intervals.sequential import conclusion_after_looks, interval_after_looks, pairs_needed
from tests.random_examples import examples

GAIN, LOSS, NOTHING, OPEN = Conclusion.GAIN, Conclusion.LOSS, Conclusion.NOTHING, Conclusion.UNKNOWN


@dataclass(frozen=True)
class _Differences:
    values: tuple[float, ...]
    answers: int | None = None

    def interval(self, confidence):
        return difference_interval(self.values, self.answers, confidence)


def _after_every_pair(*values, answers=None, margin=0.01):
    differences = _Differences(values, answers)
    return conclusion_after_looks(differences, range(3, len(values) + 1) or [len(values)], margin)


def _at_most(rate, rounds):
    """Seen in so many rounds, but for once in a thousand times."""
    return rate + 3 * (rate * (1 - rate) / rounds) ** 0.5


# Of sweeps without an effect, with one just above the margin, with noise of the test examples, and with rates chosen by validation.
WITHIN_PROMISE = {
    "no effect": (simulated.seeds_alone, {"effect": 0.0}),
    "just above the margin": (simulated.seeds_alone, {"effect": simulated.MARGIN + 0.01}),
    "200 examples": (simulated.crossed, {"effect": 0.0, "answers": 200}),
    "10,000 examples": (simulated.crossed, {"effect": 0.0, "answers": 10_000}),
    "10,000 examples, just above": (simulated.crossed, {"effect": simulated.MARGIN + 0.01, "answers": 10_000}),
    "rates dropped": (simulated.rate_chosen, {"effect": 0.0}),
    "rates dropped, just above": (simulated.rate_chosen, {"effect": simulated.MARGIN + 0.01}),
    "rates chosen again": (simulated.rate_chosen, {"effect": 0.0, "dropping": False}),
}


@pytest.mark.parametrize("name", WITHIN_PROMISE)
def test_looks_after_every_pair_are_wrong_in_one_sweep_of_twenty_at_most(name):
    draw, arguments = WITHIN_PROMISE[name]
    rounds = examples(2_500)
    outcome = simulated.simulate(draw, rounds, simulated.designs()["spending"], **arguments)
    assert outcome.wrong <= _at_most(0.05, rounds)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name", [name for name, _, _ in simulated.rows() if "collapse" not in name and "skewed" not in name]
)
def test_ten_thousand_sweeps(name):
    draw, arguments = next((draw, arguments) for row, draw, arguments in simulated.rows() if row == name)
    outcome = simulated.simulate(draw, 10_000, simulated.designs()["spending"], **arguments)
    assert outcome.wrong <= 0.05


def test_students_t_looked_at_after_every_pair_is_wrong_more_often():
    """The simulation can fail."""
    naive = simulated.by_limits(np.full(len(simulated.PAIRS), 0.05))
    assert simulated.simulate(simulated.seeds_alone, 500, naive, effect=0.0).wrong > 0.06


def test_half_of_the_time_a_network_that_diverges_often_has_no_verdict():
    """Three deviations better where it finishes, and eighty worse in three seeds of ten; or in one of a hundred."""
    often, seldom = (
        simulated.verdicts_of_diverging(np.random.default_rng(0), examples(500), 3.0, share) for share in (0.3, 0.01)
    )
    # Three seeds that all finish are a third of the sweeps: then no divergence has been seen. Without the check all say "gain".
    assert often["none"] > 0.4
    assert often["gain"] + often["none"] == pytest.approx(1.0)
    assert seldom["gain"] > 0.95


@pytest.mark.parametrize("effect", [0.0, 0.5, 3.0, 10.0])
def test_it_decides_no_later_than_a_confidence_sequence(effect):
    known = simulated.designs()
    kept, other = (
        simulated.simulate(simulated.seeds_alone, 400, known[name], effect=effect) for name in ("spending", "t mixture")
    )
    assert (kept.pairs, -kept.decided) <= (other.pairs, -other.decided)


def test_the_simulation_is_of_the_limits_in_use():
    generator = np.random.default_rng(0)
    sweeps = simulated.seeds_alone(generator, 5, 0.3)
    low, high = simulated.designs()["spending"](sweeps)
    for row, values in enumerate(sweeps.differences):
        for pairs in (3, 7, 50):
            interval = interval_after_looks(_Scaled(tuple(values[:pairs])), range(3, pairs + 1))
            assert (interval.low, interval.high) == pytest.approx((low[row, pairs - 3], high[row, pairs - 3]))


class _Scaled(_Differences):
    def interval(self, confidence):
        from bnkit.intervals.student import mean_interval

        return mean_interval(self.values, confidence=confidence)


CASES = {
    "large and steady": ((0.04, 0.045, 0.05), None, GAIN),
    "the other way round": ((-0.04, -0.045, -0.05), None, LOSS),
    "small and steady": ((0.001, -0.001, 0.0005, 0.0), None, NOTHING),
    "it varies": ((0.04, -0.03, 0.01, 0.02), None, OPEN),
    "two pairs": ((0.5, 0.5), None, OPEN),
    "one pair": ((0.5,), None, OPEN),
    "constant, many answers": ((0.0,) * 3, 10_000, NOTHING),
    "constant, few answers": ((0.0,) * 50, 10, OPEN),
    "constant gain, few answers": ((0.1,) * 50, 20, OPEN),
    "a seed diverged": ((0.04, 0.045, 0.05, -0.8), None, OPEN),
    "a seed diverged at last": ((0.04,) * 49 + (-0.8,), 10_000, OPEN),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_concluded(name):
    values, answers, expected = CASES[name]
    assert _after_every_pair(*values, answers=answers) is expected


def test_without_differences_there_is_no_interval():
    assert interval_after_looks(_Differences(()), [0]) is None
    assert interval_after_looks(_Differences((0.1, 0.1)), [2]).low is None


@pytest.mark.parametrize("looks", [[], [3], [3, 4, 5]])
def test_the_last_look_is_at_all_the_pairs_that_there_are(looks):
    with pytest.raises(SettingsError, match="the last of them at 4, the number of differences"):
        interval_after_looks(_Differences((0.1, 0.2, 0.1, 0.2)), looks)


def test_fewer_looks_cost_less():
    once, twice, every = (confidence_at_look(looks, 0.95) for looks in ([10], [5, 10], range(3, 11)))
    assert 0.95 < once < twice < every == pytest.approx(1 - level_at(10, 0.05))
    # Looks before the third pair, and a second look at the same pairs, are free.
    assert confidence_at_look([1, 2, 5, 5, 10], 0.95) == twice
    # A call with fewer seeds than an earlier one: the later look has been taken, and allowed for.
    assert confidence_at_look([3, 4, 20, 5], 0.95) == confidence_at_look([3, 4, 5], 0.95)


@pytest.mark.parametrize("looks", [(5, 10, 20), (3, 4, 5, 20), (10, 11, 12)])
def test_a_few_looks_keep_the_promise_and_use_it(looks):
    levels = [1 - confidence_at_look(looks[: place + 1], 0.95) for place in range(len(looks))]
    p_values = simulated._null_p_values(20_000)[:, [look - 3 for look in looks]]
    wrong = (p_values <= levels).any(1).mean()
    assert 0.03 < wrong < _at_most(0.05, 20_000)


def test_an_anytime_p_value_is_below_a_rate_as_often_as_that():
    mean, variance = simulated._moments(np.random.default_rng(1).standard_normal((20_000, simulated.MOST)))
    one_sided = stdtr(simulated.PAIRS - 1, -mean / np.sqrt(variance / simulated.PAIRS))
    for rate in (0.2, 0.05, 0.01):
        levels = level_at(simulated.PAIRS.astype(float), 2 * rate) / 2
        at_limits = {int(pairs): float(level) for pairs, level in zip(simulated.PAIRS, levels, strict=True)}
        assert anytime_p_value(at_limits) == pytest.approx(rate, rel=1e-6)
        assert 0.75 * rate <= (one_sided <= levels).any(1).mean() <= _at_most(rate, len(mean))


def test_p_values_at_the_ends():
    assert anytime_p_value({3: 0.0}) == 0.0
    assert anytime_p_value({3: 1.0, 50: 1.0}) == 1.0
    assert anytime_p_value({3: 1e-30}) < 2e-29


def test_pairs_that_it_takes_are_where_the_same_mean_and_deviation_conclude():
    values = (0.01, 0.03, 0.02, 0.0)
    needed = pairs_needed(_Differences(values), [3, 4], margin=0.001)
    assert needed > 4
    # As many pairs of the same mean and deviation conclude, and one fewer does not.
    for pairs, expected in ((needed, GAIN), (needed - 1, OPEN)):
        spread = np.tile([1.0, -1.0], pairs)[:pairs]
        spread = (spread - spread.mean()) / np.std(spread, ddof=1)
        same = _Scaled(tuple(np.mean(values) + np.std(values, ddof=1) * spread))
        assert conclusion_after_looks(same, range(3, pairs + 1), 0.001) is expected


def test_pairs_that_it_takes_where_that_is_known_or_cannot_be():
    decided = _Differences((0.04, 0.045, 0.05))
    assert pairs_needed(decided, [3], 0.01) == 3
    assert pairs_needed(_Differences((0.04, 0.01)), [2], 0.01) is None
    few_answers = _Differences((0.01, 0.012, 0.008), 20)
    assert pairs_needed(few_answers, [3], 0.01) is None
    small = _Differences((0.004, -0.004, 0.0))
    assert 3 < pairs_needed(small, [3], 0.01) < 20
