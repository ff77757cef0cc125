from __future__ import annotations

import pytest

from bnkit.experiments.records.record import Status
from bnkit.report.contrast import contrasts
from bnkit.report.sweep import BY_VALIDATION, ONLY_ONE
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record


def _final(values):
    """``{(network, lr): accuracy of seed 0, 1, 2}``: two epochs, the first at half of the last."""

    def outcome(run):
        accuracy = values[run.network.key, run.settings.lr][run.seed]
        return diverged_record(0.1) if accuracy is None else finished_record(accuracy / 2, accuracy)

    return outcome


def _one(planned, outcome):
    (contrast,) = contrasts(fake_results(planned, outcome))
    return contrast


def test_differences_are_paired_by_seed():
    values = {("no_batch_norm", 0.1): (0.5, 0.6, 0.7), ("batch_norm", 0.1): (0.52, 0.62, 0.74)}
    at = _one(fake_plan(), _final(values)).by_learning_rate[0]
    # By hand: differences 0.02, 0.02, 0.04; mean 0.02667, deviation 0.011547; t(0.975, 2) = 4.302653.
    assert at.test.mean == pytest.approx(0.0266667, abs=1e-7)
    assert at.test.low == pytest.approx(0.0266667 - 4.302653 * 0.011547 / 3**0.5, abs=1e-6)
    assert at.test.n == 3
    assert (at.baseline_mean, at.network_mean) == (pytest.approx(0.6), pytest.approx(0.6266667))


def test_a_seed_that_diverged_is_in_no_pair_and_is_counted():
    values = {("no_batch_norm", 0.1): (0.5, None, 0.7), ("batch_norm", 0.1): (0.6, 0.9, 0.8)}
    at = _one(fake_plan(), _final(values)).by_learning_rate[0]
    assert at.test.n == 2
    assert at.test.mean == pytest.approx(0.1)
    assert at.baseline_ended == {Status.FINISHED: 2, Status.DIVERGED: 1}
    assert at.network_ended == {Status.FINISHED: 3}
    assert at.network_mean == pytest.approx((0.6 + 0.9 + 0.8) / 3)


def test_the_best_rate_is_chosen_on_the_validation_part_and_not_on_the_test_set():
    planned = fake_plan(grid={"lr": [0.1, 1.0]})

    def outcome(run):
        better_in_test, better_in_validation = (0.9, 0.5), (0.7, 0.6)
        test, validation = better_in_test if run.settings.lr == 0.1 else better_in_validation
        return finished_record(test / 2, test, validation_accuracy=validation)

    contrast = _one(planned, outcome)
    assert contrast.chosen_by == BY_VALIDATION
    assert (contrast.best.baseline_lr, contrast.best.baseline_mean) == (1.0, pytest.approx(0.7))


def test_each_arm_has_a_best_rate_of_its_own():
    values = {
        ("no_batch_norm", 0.1): (0.8, 0.8, 0.8), ("no_batch_norm", 1.0): (0.1, 0.1, 0.1),
        ("batch_norm", 0.1): (0.85, 0.85, 0.85), ("batch_norm", 1.0): (0.9, 0.92, 0.94),
    }  # fmt: skip
    best = _one(fake_plan(grid={"lr": [0.1, 1.0]}), _final(values)).best
    assert (best.baseline_lr, best.network_lr) == (0.1, 1.0)
    assert best.test.mean == pytest.approx(0.12)
    assert best.training.mean == pytest.approx(0.12)


def test_a_rate_at_which_a_seed_diverged_is_not_the_best():
    values = {
        ("no_batch_norm", 0.1): (0.5, 0.5, 0.5), ("no_batch_norm", 1.0): (0.9, None, 0.9),
        ("batch_norm", 0.1): (0.5, 0.5, 0.5), ("batch_norm", 1.0): (0.9, 0.9, 0.9),
    }  # fmt: skip
    best = _one(fake_plan(grid={"lr": [0.1, 1.0]}), _final(values)).best
    assert (best.baseline_lr, best.network_lr) == (0.1, 1.0)


@pytest.mark.parametrize("which", ["no_batch_norm", "batch_norm"])
def test_why_no_best_rate_can_be_chosen_names_the_network(which):
    values = {(key, 0.1): (0.5, 0.5, 0.5) for key in ("no_batch_norm", "batch_norm")}
    values[which, 0.1] = (None, None, None)
    contrast = _one(fake_plan(), _final(values))
    assert contrast.best is None
    assert contrast.chosen_by == f"no run of {which} finished"
    assert contrast.by_learning_rate[0].test is None
    assert contrast.cost is None


def test_without_a_validation_part_no_rate_is_chosen():
    contrast = _one(fake_plan(grid={"lr": [0.1, 1.0]}), lambda run: finished_record(0.5, 0.6, validation_accuracy=None))
    assert contrast.best is None
    assert "no validation part" in contrast.chosen_by


def test_one_rate_needs_no_choice():
    contrast = _one(fake_plan(), lambda run: finished_record(0.5, 0.6, validation_accuracy=None))
    assert (contrast.chosen_by, contrast.best.baseline_lr) == (ONLY_ONE, 0.1)


def test_epochs_and_seconds_to_the_accuracy_of_the_other():
    curves = {"no_batch_norm": (0.2, 0.3, 0.4, 0.5), "batch_norm": (0.4, 0.55, 0.7, 0.8)}
    best = _one(fake_plan(), lambda run: finished_record(*curves[run.network.key])).best
    by_network, by_baseline = best.reached
    assert (by_network.by, by_network.epochs, by_network.seconds, by_network.reached) == ("batch_norm", 2, 4.0, 3)
    assert (by_network.own_epochs, by_network.own_seconds, by_network.value) == (4, 8.0, pytest.approx(0.5))
    assert (by_baseline.by, by_baseline.epochs, by_baseline.seconds, by_baseline.reached) == (
        "no_batch_norm",
        None,
        None,
        0,
    )


def test_the_cost_is_the_ratio_of_the_median_epochs():
    seconds = {"no_batch_norm": 2.0, "batch_norm": 3.0}
    cost = _one(fake_plan(), lambda run: finished_record(0.5, 0.5, 0.5, epoch_duration=seconds[run.network.key])).cost
    assert (cost.mean, cost.low, cost.high, cost.n) == (pytest.approx(1.5), pytest.approx(1.5), pytest.approx(1.5), 3)


def test_each_setting_that_varies_has_a_contrast_of_its_own():
    planned = fake_plan(grid={"lr": [0.1], "trainset": ["normal", "not_normal"], "batch_size": [8]})
    found = contrasts(fake_results(planned, lambda run: finished_record(0.5)))
    assert [dict(contrast.setting) for contrast in found] == [{"trainset": "normal"}, {"trainset": "not_normal"}]


@pytest.mark.parametrize(
    ("networks", "pairs"),
    [
        (("batch_norm", "no_batch_norm", "torch"), [("no_batch_norm", "batch_norm"), ("no_batch_norm", "torch")]),
        (("mine", "yours"), [("mine", "yours")]),
        (
            ("a.no_batch_norm", "a.batch_norm", "b.batch_norm", "b.no_batch_norm"),
            [("a.no_batch_norm", "a.batch_norm"), ("b.no_batch_norm", "b.batch_norm")],
        ),
        (("alone",), []),
    ],
    ids=["three arms", "names of one's own", "two architectures", "one network"],
)
def test_who_is_set_against_whom(networks, pairs):
    planned = fake_plan(networks)
    found = contrasts(fake_results(planned, lambda run: finished_record(0.5)))
    assert [(contrast.baseline, contrast.network) for contrast in found] == pairs
