"""Which runs the rule asks for, from records that are made up: no training."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bnkit.comparison.choose_next_runs import seed_growth
from bnkit.errors import SettingsError
from bnkit.experiments.experiment import DEFAULT_TASK, TaskIdentity
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.report.contrasts.repeated_looks import describe_looks
from tests.report.fake_runs import diverged_record, fake_plan, finished_record, scored_record

RATES = [0.01, 0.1, 1.0]


def _plan(max_seeds=8, margin=1.0, networks=("no_batch_norm", "batch_norm"), **changes):
    until = {"goal": "decided", "margin": margin, "max_seeds": max_seeds}
    return fake_plan(networks, **{"grid": {"lr": RATES}, "seeds": 1, "validation": 0.1, "until": until, **changes})


def _accuracy(run, gain=0.05, spread=0.002):
    """Best at 0.1; ``gain`` with batch norm; seeds differ by ``spread``."""
    noise = random.Random(f"{run.network.key} {run.seed}").gauss(0, spread)
    return 0.8 + gain * (run.network.key != "no_batch_norm") - 0.2 * (run.settings.lr != 0.1) + noise


def _records(accuracy=_accuracy, **changes):
    return lambda run: finished_record(accuracy(run), answers=900, test_answers=10_000_000, **changes)


def _asked(growth, place):
    return [(run.network.key, run.settings.lr, run.seed) for run in growth.rounds[place]]


def _grown(plan, record_of):
    """As a call trains: only what was asked for is recorded, round by round."""
    recorded, rounds = {}, []

    def known(run):
        return recorded.get(run.run_id, Record())

    while not (growth := seed_growth(plan, known)).reason:
        rounds.append([run.run_id for run in growth.rounds[-1]])
        recorded |= {run.run_id: record_of(run) for run in growth.rounds[-1]}
    return growth, rounds


def test_every_rate_has_the_first_seed_and_the_best_one_the_others():
    growth = seed_growth(_plan(), _records())
    both = ("no_batch_norm", "batch_norm")
    assert _asked(growth, 0) == [(network, lr, 0) for lr in RATES for network in both]
    later = [entry for number in range(1, len(growth.rounds)) for entry in _asked(growth, number)]
    assert {(network, lr) for network, lr, seed in later if seed >= 2} == {(network, 0.1) for network in both}
    (contrast,) = growth.contrasts
    assert (contrast.baseline_lr, contrast.network_lr) == (0.1, 0.1)
    assert (growth.reason, contrast.last.pairs, contrast.last.verdict) == ("decided", 3, "gain")
    assert [run.number for run in growth.runs] == list(range(1, len(growth.runs) + 1))
    assert len(growth.runs) < 3 * 2 * 3


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [(0.05, 0.002, "gain"), (-0.05, 0.002, "loss"), (0.0, 0.001, "nothing"), (0.0, 0.05, "unknown")],
)
def test_the_verdict_is_a_gain_a_loss_less_than_the_margin_or_open(gain, spread, verdict):
    growth = seed_growth(_plan(), _records(lambda run: _accuracy(run, gain, spread)))
    (contrast,) = growth.contrasts
    assert contrast.last.verdict == verdict
    assert growth.reason == ("max_seeds" if verdict == "unknown" else "decided")
    assert (contrast.needed is not None) == (verdict == "unknown")
    assert {run.seed for run in growth.runs} == set(range(contrast.last.pairs))


def test_a_smaller_margin_takes_more_seeds():
    records = _records(lambda run: _accuracy(run, 0.0, 0.004))
    few, many = (seed_growth(_plan(40, margin), records).contrasts[0].last.pairs for margin in (2.0, 0.5))
    assert few < many


def test_what_is_asked_for_does_not_depend_on_what_else_is_recorded():
    plan, records = _plan(), _records(lambda run: _accuracy(run, 0.01, 0.01))
    grown, rounds = _grown(plan, records)
    replayed = seed_growth(plan, records)  # all runs of the plan are there
    assert grown == replayed
    assert [[run.run_id for run in asked] for asked in replayed.rounds] == rounds


def test_a_round_has_ended_when_all_its_runs_have():
    plan, records = _plan(), _records()
    last = seed_growth(plan, records).rounds[1][-1]
    growth = seed_growth(plan, lambda run: Record() if run.run_id == last.run_id else records(run))
    assert (growth.reason, len(growth.rounds), growth.contrasts[0].looks) == ("", 2, ())


@pytest.mark.parametrize(
    ("far", "rates"),
    [(0.3, [set(RATES), {0.01, 0.1}, {0.01, 0.1}]), (0.805, [set(RATES), set(RATES), set(RATES)])],
)
def test_rates_that_few_validation_answers_tell_apart_all_go_on(far, rates):
    """Rates with one answer of 100 between them: after three seeds that with the best mean is taken."""

    def close(run):
        return {0.01: 0.80, 0.1: 0.81, 1.0: far}[run.settings.lr]

    growth = seed_growth(_plan(), _records(close))
    assert [{lr for _, lr, _ in _asked(growth, number)} for number in range(3)] == rates
    assert growth.contrasts[0].network_lr == 0.1


FOUR = [0.01, 0.1, 0.3, 1.0]
OWN = TaskIdentity(metric="nets.py:own#0123")


@pytest.mark.parametrize(
    ("task", "rates"),
    [(DEFAULT_TASK, [set(FOUR), {0.1}, {0.1}]), (OWN, [set(FOUR), {0.1, 0.3}, {0.1}])],
    ids=["accuracy", "a metric of one's own"],
)
def test_rates_that_are_clearly_worse_are_dropped_after_one_seed(task, rates):
    """For other metrics, no difference is known to be clear: each round drops the worse half."""

    def records(run):
        value = {0.01: 0.4, 0.1: 0.8, 0.3: 0.6, 1.0: 0.5}[run.settings.lr] + 0.0001 * run.seed
        return finished_record(value, answers=900, validation_metric=value, test_metric=value, test_answers=10_000)

    growth = seed_growth(_plan(6, grid={"lr": FOUR}, task=task), records)
    assert [{lr for _, lr, _ in _asked(growth, number)} for number in range(3)] == rates


def test_a_rate_at_which_runs_diverge_is_dropped():
    def records(run):
        return diverged_record(0.9) if run.settings.lr == 1.0 else _records()(run)

    assert {run.settings.lr for run in seed_growth(_plan(), records).rounds[1]} <= {0.01, 0.1}


@pytest.mark.parametrize("lost", [("no_batch_norm",), ("no_batch_norm", "batch_norm")])
def test_networks_that_diverge_end_the_growth(lost):
    def records(run):
        return diverged_record(0.9) if run.network.key in lost else _records()(run)

    growth = seed_growth(_plan(20), records)
    assert (growth.reason, growth.contrasts[0].hopeless) == ("hopeless", "runs")
    assert len(dict.fromkeys(run.seed for run in growth.runs)) == 3


def test_pairs_that_are_lost_now_and_then_are_made_up_for():
    def records(run):
        is_lost = run.seed == 1 and run.network.key == "batch_norm"
        return diverged_record(0.9) if is_lost else _records(lambda run: _accuracy(run, 0.02, 0.004))(run)

    growth = seed_growth(_plan(20), records)
    assert growth.reason == "decided"
    assert len({run.seed for run in growth.runs}) == growth.contrasts[0].last.pairs + 1


def test_a_gain_of_a_network_that_diverges_too_often_is_none():
    """Two points better where it finishes, and it diverges in every fourth seed."""

    def records(run):
        is_lost = run.seed % 4 == 1 and run.network.key == "batch_norm"
        return diverged_record(0.9) if is_lost else _records(lambda run: _accuracy(run, 0.02, 0.004))(run)

    growth = seed_growth(_plan(20, grid={"lr": [0.1]}), records)
    (contrast,) = growth.contrasts
    assert contrast.last.low > 0
    assert (contrast.last.verdict, contrast.is_contradicted) == ("unknown", True)
    assert (growth.reason, contrast.hopeless) == ("hopeless", "diverged")
    assert len({run.seed for run in growth.runs}) < 20
    assert list(describe_looks(contrast))[-1] == (
        "More seeds would not decide it: runs that diverge contradict those that finish."
    )


def test_too_few_test_examples_end_the_growth_and_how_many_would_do_is_said():
    """Of 300 answers 24 differ, in all seeds the same: the interval cannot come below a point."""

    def records(run):
        right = np.ones(300, bool)
        right[slice(0, 12) if run.network.key == "batch_norm" else slice(100, 112)] = False
        right[200 + run.seed] = False
        return scored_record(right, answers=900)

    growth = seed_growth(_plan(20, grid={"lr": [0.1]}), records)
    (contrast,) = growth.contrasts
    assert (growth.reason, contrast.hopeless, contrast.last.pairs, contrast.needed) == ("hopeless", "examples", 6, None)
    assert contrast.examples_needed > 3000
    assert {look.examples for look in contrast.looks} == {"new"}
    assert list(describe_looks(contrast))[-1] == (
        "More seeds would not decide it: the test examples are too few; "
        f"about {contrast.examples_needed:,} would decide."
    )


def test_without_the_number_of_test_answers_a_look_is_for_these_examples():
    growth = seed_growth(_plan(), lambda run: finished_record(_accuracy(run), answers=900))
    assert [look.examples for look in growth.contrasts[0].looks] == ["these"]


def test_each_setting_is_a_contrast_of_its_own_and_a_decided_one_asks_for_nothing_more():
    def records(run):
        return _records(lambda run: _accuracy(run, 0.05 if run.settings.depth == 1 else 0.004, 0.004))(run)

    growth = seed_growth(_plan(30, grid={"lr": [0.1], "depth": [1, 2]}), records)
    first, second = growth.contrasts
    assert (first.setting, second.setting) == ({"depth": 1}, {"depth": 2})
    assert first.last.pairs < second.last.pairs
    assert {run.seed for run in growth.runs if run.settings.depth == 1} == set(range(first.last.pairs))


def test_of_several_networks_all_pairs_are_decided_at_once():
    arms = ("no_batch_norm", "batch_norm", "group_norm")
    gains = {"no_batch_norm": 0.0, "batch_norm": 0.05, "group_norm": 0.1}
    records = _records(lambda run: _accuracy(run, 0, 0.004) + gains[run.network.key])
    growth = seed_growth(_plan(networks=arms), records)
    assert [(contrast.baseline, contrast.network) for contrast in growth.contrasts] == [
        ("no_batch_norm", "batch_norm"), ("no_batch_norm", "group_norm"), ("group_norm", "batch_norm"),
    ]  # fmt: skip
    assert {contrast.confidence for contrast in growth.contrasts} == {1 - (1 - 0.95) / 3}
    assert [contrast.last.verdict for contrast in growth.contrasts] == ["gain", "gain", "loss"]


@pytest.mark.parametrize(("first", "most", "expected"), [(2, 8, {0, 1}), (5, 8, set(range(5))), (3, 3, {0, 1, 2})])
def test_the_first_round_has_as_many_seeds_as_are_asked_for(first, most, expected):
    growth = seed_growth(_plan(most, seeds=first), _records())
    assert {run.seed for run in growth.rounds[0]} == expected
    assert max(len({run.seed for run in growth.runs}), 3) <= max(first, 3)


def test_more_seeds_to_begin_with_than_there_may_be_are_refused():
    with pytest.raises(SettingsError, match="5 seeds to begin with, and at most 4; expected more `max_seeds`"):
        _plan(4, seeds=5)


def test_seeds_that_are_given_come_first():
    plan = _plan(5, seeds=[7, 2])
    assert plan.seeds == (7, 2, 0, 1, 3)
