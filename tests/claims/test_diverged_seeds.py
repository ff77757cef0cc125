"""Runs that diverged have no effect, and withhold a verdict that they contradict, as in a comparison."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from bnkit.claims import CLAIMS, Decision, Evidence, judge
from bnkit.claims.diverged_seeds import CountedSeed, Lost, direction_of, divergence_of_seeds
from bnkit.claims.judge_hypotheses import HypothesisTest
from bnkit.claims.seed_rounds import judge_once
from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.intervals.proportions import share_limits
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.diverged_runs import Divergence
from tests.report.fake_runs import diverged_record, epoch, fake_plan, fake_results, finished_record

HOLDS, NOT, OPEN = Decision.HOLDS, Decision.DOES_NOT_HOLD, Decision.NOT_ENOUGH_DATA
BY_NAME = {claim.name: claim for claim in CLAIMS}


def _with(run):
    return run.network.key == "batch_norm"


def _diverged(name, outcome, **changes):
    return BY_NAME[name].effect_of.diverged(Evidence(fake_results(fake_plan(**changes), outcome)))


@pytest.mark.parametrize(
    ("lost", "raised", "lowered", "mean"),
    [
        ({("batch_norm", 0), ("batch_norm", 3)}, 0, 2, (3 * 0.1 + 2 * (0.2 - 0.6)) / 5),
        ({("no_batch_norm", 1)}, 1, 0, (4 * 0.1 + (0.7 - 0.2)) / 5),
        ({("batch_norm", 0), ("no_batch_norm", 0)}, 0, 0, 4 * 0.1 / 5),
    ],
    ids=["with", "without", "both"],
)
def test_the_gain_at_the_best_rates_has_the_divergence_of_a_comparison(lost, raised, lowered, mean):
    def outcome(run):
        if (run.network.key, run.seed) in lost:
            return diverged_record(0.1)
        return finished_record(0.7 if _with(run) else 0.6, test_constant=0.2)

    planned = fake_plan(seeds=5)
    divergence = _diverged("better-results", outcome, seeds=5)
    (contrast,) = contrasts(fake_results(planned, outcome))
    there = contrast.best.divergence
    assert (divergence.seeds, divergence.baseline, divergence.network) == (5, raised, lowered)
    assert divergence.mean == pytest.approx(mean) == pytest.approx(there.mean)
    assert (divergence.finished, divergence.counts_as) == pytest.approx((there.finished, there.counts_as))
    assert divergence.cautious_mean == pytest.approx(there.cautious_mean)


def test_nothing_diverged_or_nothing_finished():
    assert _diverged("better-results", lambda run: finished_record(0.5)) is None
    assert _diverged("better-results", lambda run: diverged_record(0.1)) is None
    failed = Record(Status.FAILED)
    assert _diverged("better-results", lambda run: failed if run.seed == 0 else finished_record(0.5)) is None


def test_of_four_runs_of_a_seed_each_moves_the_effect_by_its_sign():
    """What it gains at 32 minus what it gains at 2: a run with batch norm that diverges in batches of 2 raises it."""

    def outcome(run):
        if run.seed == 0 and _with(run) and run.settings.batch_size == 2:
            return diverged_record(0.1)
        if run.seed == 1 and not _with(run) and run.settings.batch_size == 2:
            return diverged_record(0.1)
        return finished_record(0.9 if _with(run) else 0.8, test_constant=0.5)

    divergence = _diverged("small-batches", outcome, grid={"lr": [0.1], "batch_size": [2, 32]}, seeds=4)
    # Of the seeds 0 and 1: (0.9 − 0.8) − (0.5 − 0.8), and (0.9 − 0.8) − (0.9 − 0.5).
    assert (divergence.seeds, divergence.baseline, divergence.network, divergence.finished) == (4, 1, 1, 0.0)
    assert divergence.mean == pytest.approx((0.4 - 0.3) / 4)
    assert divergence.cautious_mean is None  # neither direction is more frequent


def test_a_run_that_enters_with_both_signs_moves_the_effect_by_what_it_would_have_had():
    """The gap between training and test accuracy, without minus with: a run that diverged counts as one without a gap."""

    def outcome(run):
        if run.seed == 0 and not _with(run):
            return diverged_record(0.1)
        return finished_record(0.7, training_accuracy=0.8 if _with(run) else 0.9, test_constant=0.1)

    divergence = _diverged("regularises", outcome, grid={"lr": [0.1], "dropout": [0.0, 0.5]}, seeds=4)
    assert (divergence.baseline, divergence.network) == (0, 1)
    assert (divergence.finished, divergence.mean) == pytest.approx((0.1, (3 * 0.1 - 0.1) / 4))


@pytest.mark.parametrize(
    ("lost", "directions", "value"),
    [("batch_norm", (0, 1), 40 / 50), ("no_batch_norm", (1, 0), 50 / 40)],
)
def test_a_run_that_diverged_takes_an_epoch_longer_to_the_loss_of_the_other(lost, directions, value):
    def outcome(run):
        if run.network.key == lost and run.seed == 0:
            return diverged_record(0.5)
        losses = [0.9, 0.5, 0.3, 0.2] if _with(run) else [1.0, 0.8, 0.6, 0.5]
        return Record(
            Status.FINISHED, [epoch(n, 0.5, test_loss=loss, steps=10 * n) for n, loss in enumerate(losses, 1)]
        )

    divergence = _diverged("faster-in-steps", outcome)
    assert (divergence.baseline, divergence.network) == directions
    assert (divergence.finished, divergence.mean) == pytest.approx(
        (math.log(2), (2 * math.log(2) + math.log(value)) / 3)
    )
    effects = BY_NAME["faster-in-steps"].effect_of(Evidence(fake_results(fake_plan(), outcome)))
    assert effects == pytest.approx({1: math.log(2), 2: math.log(2)})


def test_the_direction_is_that_of_most_runs():
    up, down = Lost(-1.0, 0.0), Lost(1.0, 0.0)
    assert [direction_of(lost) for lost in ((up, up, down), (up, down), (down,), ())] == [1, 0, -1, 0]
    assert direction_of([Lost(0.0, -0.2)]) == -1
    seeds = [CountedSeed(1.0, True, 0), CountedSeed(-3.0, False, -1)]
    assert divergence_of_seeds(seeds, 0.1) == Divergence(2, 0, 1, 0.1, 1.0, -1.0)


@pytest.mark.parametrize(
    ("values", "diverged", "decision", "contradicted"),
    [
        ((1.0, 1.1, 0.9, 1.0), Divergence(10, 0, 6, None, 1.0, -2.0), OPEN, HOLDS),
        ((1.0, 1.1, 0.9, 1.0), Divergence(10, 0, 6, None, 1.0, 0.5), HOLDS, None),
        ((1.0, 1.1, 0.9, 1.0), Divergence(10, 3, 3, None, 1.0, -2.0), HOLDS, None),
        ((1.0, 1.1, 0.9, 1.0), Divergence(10, 6, 0, None, 1.0, 2.0), HOLDS, None),
        ((0.0, 0.1, -0.1, 0.0), Divergence(10, 6, 0, None, 0.0, 2.0), OPEN, NOT),
        ((0.0, 0.1, -0.1, 0.0), Divergence(10, 0, 6, None, 0.0, -2.0), NOT, None),
        ((0.5, -0.3, 0.9), Divergence(10, 0, 6, None, 0.4, -2.0), OPEN, None),
    ],
    ids=["against it", "less of it", "as often", "for it", "against its absence", "for its absence", "open"],
)
def test_a_verdict_that_the_runs_that_diverged_contradict_is_withheld(values, diverged, decision, contradicted):
    (verdict,) = judge([HypothesisTest(dict(enumerate(values)), 0.5, diverged=diverged)])
    assert (verdict.decision, verdict.contradicted) == (decision, contradicted)


def test_the_share_of_seeds_is_taken_at_its_lower_end():
    """By hand: 6 of 10 seeds are at least 31 %, so that the mean moves by 0.313 / 0.6 of the way from 1 to −2."""
    divergence = Divergence(10, 0, 6, None, 1.0, -2.0)
    assert share_limits(0.6, 10)[0] == pytest.approx(0.3127, abs=1e-4)
    assert divergence.cautious_mean == pytest.approx(1 - 3 * 0.3127 / 0.6, abs=1e-3)


@pytest.mark.parametrize(("seeds", "is_open"), [(9, True), (12, False)])
def test_what_is_missing_is_said_and_no_more_seeds_are_added_from_twelve_on(seeds, is_open):
    def outcome(run):
        if _with(run) and run.seed >= 5:
            return diverged_record(0.1)
        return finished_record(0.6 if _with(run) else 0.55 + 0.001 * (run.seed % 3), test_constant=0.1)

    design = BY_NAME["better-results"].design
    training = SimpleNamespace(
        evidence={design: Evidence(fake_results(fake_plan(seeds=seeds), outcome))}, seeds=lambda name: seeds
    )
    (found,) = judge_once([BY_NAME["better-results"]], training, {})
    assert (found.verdict.decision, found.verdict.contradicted, len(found.effects)) == (OPEN, HOLDS, 5)
    assert found.is_open == is_open
    mean = found.diverged.mean
    assert mean < 0
    assert found.why == (
        f"it holds for the seeds whose runs finished, but in {seeds - 5} of {seeds} seeds runs diverged; if these count, the mean "
        f"effect is −{-100 * mean:.1f} points"
    )
