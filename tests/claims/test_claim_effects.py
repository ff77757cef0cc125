"""Effects from records that were made up: what speaks for a claim is positive, and by how much is computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bnkit.claims import CLAIMS, Evidence, designs
from bnkit.claims.claim_designs import Design
from bnkit.experiments.records.run_epochs_file import Record, Status
from tests.report.fake_runs import diverged_record, epoch, fake_plan, fake_results, finished_record, scored_record

BY_NAME = {claim.name: claim for claim in CLAIMS}


def _effects(name, outcome, **changes):
    planned = fake_plan(changes.pop("networks", ("no_batch_norm", "batch_norm")), **changes)
    return BY_NAME[name].effect_of(Evidence(fake_results(planned, outcome)))


def _with(run):
    return run.network.key == "batch_norm"


def test_faster_is_the_ratio_of_what_it_takes_to_the_loss_of_the_other():
    def outcome(run):
        losses = [0.9, 0.5, 0.3, 0.2] if _with(run) else [1.0, 0.8, 0.6, 0.5]
        epochs = [
            epoch(n, 0.5, test_loss=loss, steps=10 * n, run_duration=(3.0 if _with(run) else 2.0) * n)
            for n, loss in enumerate(losses, 1)
        ]
        return Record(Status.FINISHED, epochs)

    # 0.5 after epoch 4 without, after epoch 2 with: 40 steps to 20, 8 seconds to 6.
    assert _effects("faster-in-steps", outcome) == pytest.approx(dict.fromkeys(range(3), math.log(2)))
    assert _effects("faster-in-seconds", outcome) == pytest.approx(dict.fromkeys(range(3), math.log(8 / 6)))


def test_one_that_never_gets_there_counts_as_slower():
    def outcome(run):
        return Record(
            Status.FINISHED, [epoch(n, 0.5, test_loss=(1.0 if _with(run) else 0.5), steps=10 * n) for n in (1, 2)]
        )

    assert _effects("faster-in-steps", outcome) == pytest.approx(dict.fromkeys(range(3), math.log(10 / 30)))


def test_the_range_of_learning_rates():
    """Without: 0.01 and 0.1 train; with: 0.1 to 10, of which nothing diverges."""
    rates = [0.01, 0.1, 1.0, 10.0]

    def outcome(run):
        lr = run.settings.lr
        if _with(run):
            return finished_record(0.9 if lr >= 0.1 else 0.2, gradient_norm=1.0)
        return finished_record(0.9, gradient_norm=lr) if lr <= 0.1 else diverged_record(0.1)

    grid = {"grid": {"lr": rates}}
    assert _effects("higher-learning-rates", outcome, **grid) == pytest.approx(dict.fromkeys(range(3), 2.0))
    assert _effects("wider-range", outcome, **grid) == pytest.approx(dict.fromkeys(range(3), 1.0))
    assert _effects("fewer-nan", outcome, **grid) == pytest.approx(dict.fromkeys(range(3), 0.5))


def test_a_seed_with_a_run_missing_is_left_out():
    def outcome(run):
        if run.seed == 1 and _with(run) and run.settings.lr == 1.0:
            return None
        return finished_record(0.9)

    for name in ("wider-range", "fewer-nan"):
        assert set(_effects(name, outcome, grid={"lr": [0.1, 1.0]})) == {0, 2}


def test_slower_is_the_ratio_of_the_medians():
    def outcome(run):
        seconds = [2.0, 2.0, 50.0] if _with(run) else [1.0, 1.0, 1.0]
        return Record(Status.FINISHED, [epoch(n, 0.5, epoch_duration=s) for n, s in enumerate(seconds, 1)])

    assert _effects("slower-iterations-bnkit", outcome) == pytest.approx(dict.fromkeys(range(3), math.log(2)))
    assert _effects("slower-iterations-torch", outcome) == {}


def test_what_dropout_gains_is_compared():
    tests = {(False, 0.0): 0.80, (False, 0.5): 0.86, (True, 0.0): 0.85, (True, 0.5): 0.84}

    def outcome(run):
        return finished_record(tests[_with(run), run.settings.dropout], accuracy=0.7, training_accuracy=0.95)

    grid = {"grid": {"lr": [0.1], "dropout": [0.0, 0.5]}}
    assert _effects("less-dropout", outcome, **grid) == pytest.approx(dict.fromkeys(range(3), 0.07))
    assert _effects("regularises", outcome, **grid) == pytest.approx(dict.fromkeys(range(3), 0.05))


def test_small_batches_and_widths_and_order():
    def outcome(run):
        small = run.settings.batch_size == 2
        return finished_record((0.6 if small else 0.9) if _with(run) else (0.7 if small else 0.8))

    assert _effects("small-batches", outcome, grid={"lr": [0.1], "batch_size": [2, 32]})[0] == pytest.approx(0.2)

    def by_width(run):
        return finished_record(0.5 + run.settings.width / 1000 + (0.09 if _with(run) else 0))

    assert _effects("smaller-networks", by_width, grid={"lr": [0.1], "width": [32, 128]})[2] == pytest.approx(-0.006)

    def by_order(run):
        return finished_record(0.9 if run.settings.order == "before" else 0.85)

    assert _effects("order", by_order, grid={"lr": [0.1], "order": ["before", "after"]})[1] == pytest.approx(0.05)


def test_refused_and_working_in_batches_of_one():
    failed = Record(Status.FAILED, traceback="…\nbnkit.errors.TooFewValuesError: one value per channel")
    other = Record(Status.FAILED, traceback="…\nValueError: something else")
    records = [failed, other, finished_record(0.5)]
    assert _effects("batch-of-one-linear", lambda run: records[run.seed], networks=("batch_norm",)) == {
        0: 1,
        1: 0,
        2: 0,
    }
    assert _effects("batch-of-one-convolution", lambda run: records[run.seed], networks=("batch_norm",)) == {
        0: 0,
        1: 0,
        2: 1,
    }


def test_population_statistics_against_the_moving_average():
    effects = _effects("population-statistics", lambda run: finished_record(0.8, test_accuracy_population=0.9))
    assert effects == pytest.approx(dict.fromkeys(range(3), 0.1))


def test_effects_measured_inside_the_network():
    def outcome(run):
        size = 1.0 if _with(run) else 3.0
        layers = {
            "fc1": {"update_ratio": 0.1, "gradient_norm": 1.0 if _with(run) else 0.01, "input_shift": 0.0},
            "act": {"dead": 0.0 if _with(run) else 0.25},
            "out": {"update_ratio": 0.1, "gradient_norm": 1.0, "input_shift": size},
        }
        probe = {"step": 0, "loss": 1.0, "loss_range": size, "gradient_norm": 1.0, "gradient_change": 2 * size}
        return finished_record(0.5, layers=[{"step": 0, "layers": layers}], landscape=[probe])

    for name in ("covariate-shift", "smoother-loss", "smoother-gradient"):
        assert _effects(name, outcome) == pytest.approx(dict.fromkeys(range(3), math.log(3)))
    grid = {"grid": {"lr": [0.1], "activation": ["relu", "sigmoid"]}}
    assert _effects("fewer-dead-units", outcome, **grid)[0] == pytest.approx(0.25)
    assert _effects("sigmoid-gradients", outcome, **grid)[0] == pytest.approx(math.log(100))


def test_every_claim_has_a_design_and_a_name_of_its_own():
    for quick in (True, False):
        known = designs(quick=quick)
        assert {claim.design for claim in CLAIMS} == known.keys()
        assert all(design.images > 0 and design.epochs > 0 for design in known.values())
    assert len({claim.name for claim in CLAIMS}) == len({claim.number for claim in CLAIMS}) == len(CLAIMS)


def test_a_design_for_another_network_budget_and_data():
    design = Design("d", "", "mlp", {"lr": 0.1, "width": 8, "order": ["before", "after"]}, 4, 1000,
                    needs=frozenset({"order"}), wishes=frozenset({"width"}))  # fmt: skip
    assert design.for_network("mine", frozenset()) == "mine has no order to set"
    assert design.for_network("mine", frozenset({"order"})).grid == {"lr": 0.1, "order": ["before", "after"]}
    assert design.for_data(5000, 300, 2.0).images == 2000
    # What the data cannot give in images is given in epochs.
    beyond = design.for_data(1000, 300, 3.0)
    assert (beyond.images, beyond.epochs, beyond.test_images) == (1000, 12, 300)
    assert design.for_data(40, 300, 1.0) == "it takes batches of 64, and there are 40 images to train on"
    small = replace(design, grid={"lr": 0.1, "batch_size": [1, 32, 256]}).for_data(100, 300, 1.0)
    assert (small.batch_sizes, small.points, small.steps()) == ([1, 32], 2, 2 * 4 * (100 + 3))
    # 2 orders, 2 arms, 4 epochs of 15 batches of 64.
    assert design.steps() == 2 * 2 * 4 * 15


SCORES = {"a": [1, 1, 0, 0, 1], "b": [1, 0, 1, 1, 1], "c": [0, 0, 0, 1, 1], "d": [1, 1, 1, 1, 0]}
# The runs that an effect adds and subtracts, and what the others of its design score.
SPREADS = {
    "better-results": (lambda run: "b" if _with(run) else "a", {}, {"b": 1, "a": -1}),
    "order": (lambda run: "b" if run.settings.order == "before" else "a", {"grid": {"lr": [0.1], "order": ["before", "after"]}}, {"b": 1, "a": -1}),
    "less-dropout": (
        lambda run: {(False, 0.0): "a", (False, 0.5): "b", (True, 0.0): "c", (True, 0.5): "d"}[_with(run), run.settings.dropout],
        {"grid": {"lr": [0.1], "dropout": [0.0, 0.5]}}, {"b": 1, "a": -1, "d": -1, "c": 1},
    ),
    "regularises": (
        lambda run: {(False, 0.0): "a", (False, 0.5): "b", (True, 0.0): "c", (True, 0.5): "d"}[_with(run), run.settings.dropout],
        {"grid": {"lr": [0.1], "dropout": [0.0, 0.5]}}, {"c": 1, "a": -1},
    ),
    "small-batches": (
        lambda run: {(False, 2): "a", (False, 32): "b", (True, 2): "c", (True, 32): "d"}[_with(run), run.settings.batch_size],
        {"grid": {"lr": [0.1], "batch_size": [2, 32]}}, {"d": 1, "b": -1, "c": -1, "a": 1},
    ),
    "smaller-networks": (
        lambda run: {(False, 128): "a", (True, 32): "b"}.get((_with(run), run.settings.width), "c"),
        {"grid": {"lr": [0.1], "width": [32, 128]}}, {"b": 1, "a": -1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREADS)
def test_how_an_effect_in_points_varies_over_the_test_examples(name):
    scores, changes, terms = SPREADS[name]
    known = {letter: np.array(row, bool) for letter, row in SCORES.items()}
    evidence = Evidence(
        fake_results(fake_plan(**changes), lambda run: scored_record(known[scores(run)], training_accuracy=0.9))
    )
    effect = BY_NAME[name].effect_of
    # By hand: with equal answers of all seeds, the variance over the examples is that of the sum.
    of_examples = sum(sign * np.array(SCORES[letter]) for letter, sign in terms.items())
    assert effect(evidence) == pytest.approx(dict.fromkeys(range(3), of_examples.mean()))
    spread = effect.spread(evidence)
    assert (spread.count, spread.recorded, spread.adjusted) == (5, 3, None)
    assert spread.variance == pytest.approx(of_examples.var(ddof=1))


def test_population_statistics_have_scores_of_their_own():
    a, b = (np.array(SCORES[letter], bool) for letter in "ab")
    evidence = Evidence(fake_results(fake_plan(), lambda run: scored_record(a, b, test_accuracy_population=0.8)))
    effect = BY_NAME["population-statistics"].effect_of
    assert effect.spread(evidence).variance == pytest.approx((b.astype(int) - a).var(ddof=1))


def test_runs_without_recorded_answers_have_no_spread():
    effect = BY_NAME["better-results"].effect_of
    assert effect.spread(Evidence(fake_results(fake_plan(), lambda run: finished_record(0.5)))) is None
    mixed = Evidence(
        fake_results(
            fake_plan(), lambda run: finished_record(0.5) if run.seed else scored_record(np.array(SCORES["a"], bool))
        )
    )
    assert effect.spread(mixed).recorded == 1
