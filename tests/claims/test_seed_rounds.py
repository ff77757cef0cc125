"""Seeds where a verdict is open: which design is next, when it ends, and that looking again is allowed for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sequential as simulated
from bnkit.claims import CLAIMS, Decision, Evidence, designs
from bnkit.claims.judge_hypotheses import ERROR_RATE, HypothesisTest, Sample, judge
from bnkit.claims.seed_rounds import decide, judge_once, judge_round, rounds_until
from bnkit.claims.seeds_needed import outlook
from bnkit.claims.train_designs import TrainedDesigns
from bnkit.intervals.crossed_effects import ExampleSpread
from tests.random_examples import examples
from tests.report.fake_runs import fake_plan, fake_results, finished_record

HOLDS, NOT, OPEN = Decision.HOLDS, Decision.DOES_NOT_HOLD, Decision.NOT_ENOUGH_DATA
# Its runs look inside; its effect is the logarithm of a ratio.
SMOOTHER = next(claim for claim in CLAIMS if claim.name == "smoother-loss")
ORDER = next(claim for claim in CLAIMS if claim.name == "order")
SLOWER = next(claim for claim in CLAIMS if claim.name == "slower-iterations-bnkit")


class _Trained(TrainedDesigns):
    """Takes records that are made up for what is trained, and notes what is asked for."""

    def __init__(self, gains, seconds=1.0, recorded=0):
        super().__init__(designs(quick=False), Path("nowhere"), "digits", None, None, False, (), None)
        self.gains, self.seconds, self.asked, self._recorded = gains, seconds, [], recorded

    def recorded(self, name):
        return self._recorded

    def train(self, name, seeds, *, alone):
        self.asked.append((name, seeds, alone))
        gains = self.gains[name]

        def outcome(run):
            gain = gains[run.seed % len(gains)]
            if name == "order":
                return finished_record(0.5 + gain * (run.settings.order == "before"), run_duration=self.seconds / 2)
            probe = {"loss_range": 1.0 if run.network.key == "batch_norm" else math.exp(gain), "step": 0}
            duration = math.exp(gain) if run.network.key == "batch_norm" else 1.0
            return finished_record(0.5, landscape=[probe], epoch_duration=duration, run_duration=self.seconds / 2)

        grid = {"lr": [0.1], "order": ["before", "after"]} if name == "order" else {"lr": [0.1]}
        networks = ("batch_norm",) if name == "order" else ("no_batch_norm", "batch_norm")
        planned = fake_plan(networks, grid=grid, seeds=seeds)
        self.evidence[name] = Evidence(fake_results(planned, outcome))


def _decided(claims, training, seconds=None, max_seeds=20):
    seen = []
    judgements = decide(claims, training, seconds=seconds, max_seeds=max_seeds, judged=seen.append)
    return judgements, seen


def test_seeds_go_to_the_design_whose_verdict_is_open():
    training = _Trained({"inside": [1.0, 1.1, 0.9, 1.05], "order": [0.02, -0.01, 0.04, 0.0]})
    judgements, seen = _decided((SMOOTHER, ORDER), training, max_seeds=8)
    sure, unsure = judgements
    assert (sure.verdict.decision, unsure.verdict.decision) == (HOLDS, OPEN)
    assert training.seeds("inside") < training.seeds("order") == 8
    assert sure.looks == rounds_until(training.seeds("inside")) and unsure.looks == (3, 4, 5, 6, 7, 8)
    assert len(seen) == len(training.asked) and seen[-1] == judgements
    assert sure.outlook is None and unsure.outlook.needed > 8
    assert "more seeds" in str(unsure.outlook)


def test_the_verdict_that_is_nearest_comes_first():
    gains = {"inside": [1.0, 1.3, 0.8, 1.2], "order": [0.02, -0.01, 0.04, 0.0]}
    training = _Trained(gains)
    _decided((ORDER, SMOOTHER), training, max_seeds=6)
    # The fewest steps first; and its verdict is nearer than the first three seeds of the other.
    names = [name for name, _, _ in training.asked]
    assert names.count("inside") > 1 and names == sorted(names)


def test_a_first_round_that_would_end_after_the_budget_is_not_begun():
    training = _Trained({"inside": [1.0, 1.01, 0.99], "order": [0.02, -0.01, 0.04]}, seconds=10.0)
    # 1,000 steps in 10 s: three seeds of 1,600 steps would take 48 s.
    judgements, _ = _decided((ORDER, SMOOTHER), training, seconds=40.0, max_seeds=6)
    assert {name for name, _, _ in training.asked} == {"inside"}
    assert [str(known.outlook) for known in judgements if known.is_open] == ["not trained yet"]


@pytest.mark.parametrize(("seconds", "asked"), [(0.0, 0), (3.5, 1), (1e6, 6)])
def test_no_seeds_are_begun_that_would_end_after_the_budget(seconds, asked):
    """A seed takes 3.6 s of training, by what is recorded of the first three."""
    training = _Trained({"order": [0.02, -0.01, 0.04, 0.0]}, seconds=3.6)
    judgements, _ = _decided((ORDER,), training, seconds=seconds, max_seeds=8)
    assert len(training.asked) == asked
    assert str(judgements[0].outlook).startswith("not trained yet" if not asked else "it would take about ")


def test_what_asks_for_durations_is_trained_alone():
    training = _Trained({"iterations": [0.1, 0.2], "inside": [1.0, 1.1]})
    _decided((SLOWER, SMOOTHER), training, max_seeds=4)
    assert {name: alone for name, _, alone in training.asked} == {"iterations": True, "inside": False}
    # Of the design of the learning rates, only while the claim about seconds is open.
    seconds = next(claim for claim in CLAIMS if claim.name == "faster-in-seconds")
    assert seconds.asks_duration and not designs(quick=False)[seconds.design].is_timed


def test_a_call_that_goes_on_finds_the_same():
    gains = {"inside": [1.0, 1.3, 0.8, 1.2], "order": [0.02, -0.01, 0.04, 0.0]}
    whole, first = _Trained(gains), _Trained(gains)
    judgements, _ = _decided((SMOOTHER, ORDER), whole, max_seeds=10)
    _decided((SMOOTHER, ORDER), first, max_seeds=5)
    again = _Trained(gains)
    assert _decided((SMOOTHER, ORDER), again, max_seeds=10)[0] == judgements == judge_round((SMOOTHER, ORDER), whole)


@pytest.mark.parametrize(
    ("recorded", "rounds"),
    [(0, []), (2, []), (6, [6]), (9, [8]), (30, [20])],
    ids=["nothing", "less than a round", "a round", "less than the next", "more than may be"],
)
def test_what_is_recorded_counts_however_little_time_there_is(recorded, rounds):
    training = _Trained({"order": [0.02, -0.01, 0.04, 0.0]}, recorded=recorded)
    _decided((ORDER,), training, seconds=0.0)
    assert [seeds for _, seeds, _ in training.asked] == rounds


def test_a_folder_that_grew_allows_for_the_earlier_looks():
    training = _Trained({"order": [0.02, 0.028, 0.03, 0.024, 0.021, 0.022, 0.027, 0.03]})
    training.train("order", 8, alone=False)
    (once,), (again,) = (judge_once([ORDER], training, looks) for looks in ({}, {"order": (5,)}))
    assert (once.looks, again.looks) == ((8,), (5, 8))
    assert once.verdict.p_holds < again.verdict.p_holds
    assert once.verdict.effect.low > again.verdict.effect.low
    assert once.effects == again.effects


def test_questions_without_data_count_where_they_may_be_asked_later():
    sure = HypothesisTest({0: 0.9, 1: 1.0, 2: 1.1, 3: 0.95}, 0.5, looks=())
    none = HypothesisTest({}, 0.5, looks=())
    alone, beside = judge([sure])[0], judge([none, sure, none])[1]
    assert beside.p_holds == pytest.approx(3 * alone.p_holds)


def test_the_simulation_is_of_the_verdicts_in_use():
    values = np.random.default_rng(0).normal(0.8, 1.0, 12)
    looks = tuple(Sample(dict(enumerate(values[:count]))) for count in rounds_until(12)[:-1])
    (verdict,) = judge([HypothesisTest(dict(enumerate(values)), 1.0, looks=looks)])
    mean, variance = simulated._moments(values[None])
    places = [count - 3 for count in rounds_until(12)]
    pairs = np.array(rounds_until(12))
    p_values = simulated.stdtr(pairs - 1, -(mean[0, places] / np.sqrt(variance[0, places] / pairs)))
    factor = (p_values * pairs**1.25).min()
    one = float(simulated.chance_of_factor(factor))
    assert verdict.p_holds == pytest.approx(min(1.0, one * (2 if one <= verdict.p_does_not / 2 else 1)), rel=0.5)
    assert one <= verdict.p_holds <= min(1.0, 2 * one)


@pytest.mark.parametrize("matters", [1.0, 4.0])
def test_any_verdict_of_a_table_is_wrong_in_one_table_of_twenty_at_most(matters):
    rounds = examples(500)
    tables = simulated.claims_tables(np.random.default_rng(0), rounds, matters=matters)
    promised = ERROR_RATE + 3 * (ERROR_RATE * (1 - ERROR_RATE) / rounds) ** 0.5
    assert tables["Holm, p values of all looks"].wrong <= promised
    # The simulation can fail.
    assert tables["Holm, each look by itself"].wrong > promised


@pytest.mark.exhaustive
@pytest.mark.parametrize("matters", [1.0, 2.0, 4.0])
def test_two_thousand_tables(matters):
    """The worst case has 4.9 %: what chance adds is allowed for."""
    tables = simulated.claims_tables(np.random.default_rng(1), 2_000, matters=matters)
    assert tables["Holm, p values of all looks"].wrong <= ERROR_RATE + 3 * (0.05 * 0.95 / 2_000) ** 0.5


@pytest.mark.parametrize(
    ("effects", "answers", "text"),
    [
        ([], None, "not trained yet"),
        ([0.1, 0.2], None, "open after 2 seeds, and what it would take cannot be said"),
        ([0.001, 0.0, -0.001], 50, "no number of seeds would decide it: 50 test answers are too few; about 500 would"),
        ([0.03, 0.02, 0.05], 10_000, "it would take about 5 more seeds, 50 s of training"),
    ],
)
def test_the_outlook_says_how_many_seeds_are_needed(effects, answers, text):
    test = HypothesisTest(dict(enumerate(effects)), 0.01, 0.001, answers=answers, looks=())
    assert str(outlook(test, 10, len(effects), 10.0)) == text


def test_a_claim_is_given_up_only_if_no_mean_that_the_seeds_allow_would_be_decided():
    few = {"matters": 0.01, "resolution": 0.001, "answers": 50, "looks": ()}
    steady, varied = [0.001, 0.0, -0.001] * 2, [0.4, -0.4, 0.0] * 2
    for effects, expected in ((steady, True), (varied, False), (steady[:5], False)):
        needed = outlook(HypothesisTest(dict(enumerate(effects)), **few), 10, len(effects), 10.0)
        assert (needed.answers, needed.is_hopeless) == (50, expected)


def test_more_test_answers_would_decide_where_seeds_do_not():
    """All seeds agree on the test examples, so that only more of them can decide."""
    effects = dict(enumerate([0.02, 0.021, 0.019, 0.02]))
    few = HypothesisTest(effects, 0.01, answers=400, looks=(), examples=ExampleSpread(400, 0.1, 4))
    needed = outlook(few, 2, 4, 1.0)
    assert (needed.needed, needed.answers) == (None, 400)
    for times, decision in ((needed.answers_needed / 400, HOLDS), (0.85 * needed.answers_needed / 400, OPEN)):
        count = round(400 * times)
        enough = HypothesisTest(
            dict(enumerate([0.02, 0.021, 0.019, 0.02] * 2)),
            0.01,
            answers=count,
            looks=(),
            examples=ExampleSpread(count, 0.1, 8),
        )
        assert judge([enough])[0].decision is decision


def test_as_many_seeds_as_it_would_take_decide_it():
    """Effects of the same mean and deviation."""
    effects = [0.03, 0.02, 0.05]
    test = HypothesisTest(dict(enumerate(effects)), 0.01, looks=())
    needed = outlook(test, 2, 3, 1.0).needed
    for count, decision in ((needed, HOLDS), (needed - 1, OPEN)):
        spread = np.tile([1.0, -1.0], count)[:count]
        spread = (spread - spread.mean()) / spread.std(ddof=1)
        values = np.mean(effects) + np.std(effects, ddof=1) * spread
        assert judge([HypothesisTest(dict(enumerate(values)), 0.01, looks=())])[0].decision is decision
