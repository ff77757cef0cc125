from __future__ import annotations

import pytest

from bnkit.experiments.plan import Plan, plan
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.intervals.holm import holm
from bnkit.intervals.student import mean_interval
from bnkit.report.charts.series import headline_points
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.paired_differences import PairedDifferences
from bnkit.report.contrasts.pairs_table import pairs_table
from bnkit.report.learning_rate_sweep import BY_VALIDATION, ONLY_ONE
from tests.report.fake_runs import ARMS, diverged_record, fake_plan, fake_results, finished_record


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
        (
            ("batch_norm", "no_batch_norm", "torch"),
            [("no_batch_norm", "batch_norm"), ("no_batch_norm", "torch"), ("torch", "batch_norm")],
        ),
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


THREE = ("no_batch_norm", "batch_norm", "group_norm")


def _three_arms(shifts, **grid):
    """Contrasts of three arms whose accuracies over five seeds lie ``shifts`` above a common one, with some spread of their own."""
    spread = {"no_batch_norm": (0, 0, 0, 0, 0), "batch_norm": (1, -1, 2, -2, 0), "group_norm": (-2, 1, 0, 2, -1)}

    def outcome(run):
        own = 0.004 * spread[run.network.key][run.seed]
        return finished_record(0.1, 0.5 + shifts[run.network.key] + own)

    return contrasts(fake_results(fake_plan(THREE, grid={"lr": [0.1], **grid}, seeds=5), outcome))


def test_intervals_of_several_pairs_leave_out_nothing_exactly_where_holm_rejects():
    found = _three_arms({"no_batch_norm": 0.0, "batch_norm": 0.02, "group_norm": 0.009})
    assert [(contrast.network, contrast.baseline, contrast.pairs) for contrast in found] == [
        ("batch_norm", "no_batch_norm", 3),
        ("group_norm", "no_batch_norm", 3),
        ("batch_norm", "group_norm", 3),
    ]
    alone = [PairedDifferences(_differences(contrast, found), None, contrast.objective) for contrast in found]
    adjusted = holm([differences.p_value for differences in alone])
    by_itself = [differences.interval() for differences in alone]
    for contrast, p, single in zip(found, adjusted, by_itself, strict=True):
        for interval in (contrast.best.test, contrast.by_learning_rate[0].test):
            assert (interval.low > 0 or interval.high < 0) == (p <= 0.05)
            assert interval.mean == pytest.approx(single.mean)
            assert interval.high - interval.low >= single.high - single.low
    # One that would count by itself does not with three asked at once.
    assert [p <= 0.05 for p in adjusted] == [True, False, False]
    assert [single.low > 0 for single in by_itself] == [True, True, False]


def _differences(contrast, found):
    """By hand, from the construction of ``_three_arms``."""
    spread = {"no_batch_norm": (0, 0, 0, 0, 0), "batch_norm": (1, -1, 2, -2, 0), "group_norm": (-2, 1, 0, 2, -1)}
    own, other = spread[contrast.network], spread[contrast.baseline]
    return tuple(contrast.best.test.mean + 0.004 * (a - b) for a, b in zip(own, other, strict=True))


def test_two_arms_have_the_intervals_that_they_had():
    values = {("no_batch_norm", 0.1): (0.5, 0.6, 0.7), ("batch_norm", 0.1): (0.52, 0.62, 0.74)}
    contrast = _one(fake_plan(), _final(values))
    assert contrast.pairs == 1
    expected = mean_interval([0.02, 0.02, 0.04])
    for found in (contrast.best.test, contrast.by_learning_rate[0].test):
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_architectures_are_families_of_their_own():
    networks = [f"{prefix}.{arm}" for prefix in "ab" for arm in ARMS]
    found = contrasts(fake_results(fake_plan(networks), lambda run: finished_record(0.5)))
    assert [contrast.pairs for contrast in found] == [1, 1]


def test_the_table_of_pairs_has_a_row_for_each():
    found = _three_arms({"no_batch_norm": 0.0, "batch_norm": 0.02, "group_norm": 0.009}, batch_size=[8, 16])
    ((title, (header, rows)),) = pairs_table(found).items()
    assert header == (
        *("network", "against", "batch_size", "lr", "its lr", "difference (points)", "from", "to", "n", "so it is"),
    )
    assert [row[:3] for row in rows] == [
        (contrast.network, contrast.baseline, str(contrast.setting["batch_size"])) for contrast in found
    ]
    assert (rows[0][5], rows[0][-1], rows[2][-1]) == ("+2.0", "better", "cannot be said")
    assert pairs_table(contrasts(fake_results(fake_plan(), lambda run: finished_record(0.5)))) == {}


def test_runs_that_are_no_full_product_are_set_against_each_other_where_both_are():
    """Several calls into one folder may have trained other seeds at each learning rate."""
    full = fake_plan(grid={"lr": [0.1, 1.0]})
    planned = Plan(full.experiment, tuple(run for run in full if run.settings.lr == 0.1 or run.seed == 1))
    contrast = _one(planned, lambda run: finished_record(0.4, 0.5 + 0.1 * (run.network.key == "batch_norm")))
    assert [(at.lr, at.seeds, at.test.n) for at in contrast.by_learning_rate] == [(0.1, 3, 3), (1.0, 1, 1)]
    assert (contrast.best.network_lr, contrast.best.test.n) == (0.1, 3)


def test_a_pair_on_which_a_setting_has_no_effect_stands_once():
    grid, ignored = (
        {"lr": [0.1], "bn_momentum": [0.01, 0.5]},
        {"no_batch_norm": ("bn_momentum",), "group_norm": ("bn_momentum",)},
    )
    full = fake_plan(THREE, grid=grid)
    settled = full.experiment.settled.model_copy(update={"ignored": ignored})
    planned = plan(full.experiment.model_copy(update={"settled": settled}))
    found = contrasts(fake_results(planned, lambda run: finished_record(0.5 + 0.01 * run.seed)))
    assert [(c.network, c.baseline, dict(c.setting)) for c in found] == [
        ("batch_norm", "no_batch_norm", {"bn_momentum": 0.01}),
        ("batch_norm", "no_batch_norm", {"bn_momentum": 0.5}),
        ("group_norm", "no_batch_norm", {}),
        ("batch_norm", "group_norm", {"bn_momentum": 0.01}),
        ("batch_norm", "group_norm", {"bn_momentum": 0.5}),
    ]
    points = headline_points(planned, found)
    assert points == {
        "no_batch_norm": "lr 0.1, bn_momentum 0.01",
        **dict.fromkeys(THREE[1:], "lr 0.1, bn_momentum 0.01"),
    }
