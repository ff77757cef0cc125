"""The sentences: each says what the figures say, and none says more."""

from __future__ import annotations

import json

import pytest

from bnkit.experiments.experiment import TaskIdentity
from bnkit.intervals.interval import Interval
from bnkit.report.answer_text import Answer
from bnkit.report.objective_metric import Objective
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record


def _answer(outcome, **changes):
    planned = fake_plan(**changes)
    return Answer.of(fake_results(planned, outcome))


def _by_seed(without, with_):
    values = {"no_batch_norm": without, "batch_norm": with_}
    return lambda run: finished_record(0.1, values[run.network.key][run.seed])


@pytest.mark.parametrize(
    ("without", "with_", "sentence"),
    [
        ((0.80, 0.81, 0.82), (0.85, 0.86, 0.88), "So batch_norm bought +5.3 points of test accuracy."),
        ((0.85, 0.86, 0.88), (0.80, 0.81, 0.82), "So batch_norm cost test accuracy: −5.3 points."),
        (
            (0.800, 0.810, 0.820),
            (0.801, 0.810, 0.819),
            "So batch_norm bought nothing in test accuracy: any difference is under a point.",
        ),
        (
            (0.80, 0.81, 0.82),
            (0.90, 0.80, 0.83),  # differences 10, −1, 1: mean 3.33, deviation 5.86, t = 4.303
            "n = 3 is too small to say: the difference lies between −11.2 and +17.9 points, on either side of nothing.",
        ),
    ],
    ids=["gain", "loss", "nothing", "too small"],
)
def test_the_verdict(without, with_, sentence):
    assert sentence in str(_answer(_by_seed(without, with_)))


@pytest.mark.parametrize(
    ("without", "with_", "sentence"),
    [
        (
            (0.80, 0.81, 0.82),
            (0.85, 0.86, 0.88),  # differences 5, 5, 6: mean 5.33, deviation 0.577
            "batch_norm bought +5.3 points of test accuracy (95 % interval for these test examples +3.9 to +6.8, n = 3).",
        ),
        (
            (0.80, 0.81, 0.82),
            (0.90, 0.80, 0.83),
            (
                "Whether batch_norm is better or worse in test accuracy cannot be said: +3.3 points "
                "(95 % interval for these test examples −11.2 to +17.9, n = 3). Use more seeds."
            ),
        ),
    ],
    ids=["gain", "open"],
)
def test_the_headline_rests_on_its_interval(without, with_, sentence):
    assert _answer(_by_seed(without, with_)).headline == sentence


def test_the_headline_says_where_and_what_is_elsewhere():
    """The difference is 10 points, 20 or 30 in one place each."""
    gains = {"default": 0.1, "xavier": 0.2, "kaiming": 0.3}

    def outcome(run):
        gain = gains[run.settings.init] if run.network.key == "batch_norm" else 0.0
        return finished_record(0.1, 0.5 + gain + run.seed / 1000)

    def headline(*names):
        return _answer(outcome, grid={"lr": [0.1], "init": list(names)}).headline

    said = (
        "batch_norm bought +10.0 points of test accuracy (95 % interval for these test examples +10.0 to +10.0, n = 3)"
    )
    assert headline("default") == f"{said}."
    assert headline("default", "xavier") == f"With init default: {said}; with the other setting +20.0."
    assert headline("default", "kaiming", "xavier") == (
        f"With init default: {said}; with the 2 other settings +20.0 to +30.0."
    )
    assert headline("kaiming", "default").startswith("With init kaiming: batch_norm bought +30.0 points")


def test_one_pair_of_runs_has_no_interval():
    text = str(_answer(_by_seed((0.8,), (0.9,)), seeds=1))
    assert "With 1 pair of runs nothing can be said: use more seeds." in text
    assert "+10.0 points, n = 1, too few for an interval" in text


def test_a_line_for_each_learning_rate_says_who_diverged():
    def outcome(run):
        return (
            diverged_record(0.1)
            if run.settings.lr == 1.0 and run.network.key == "no_batch_norm"
            else finished_record(0.5, 0.9)
        )

    text = str(_answer(outcome, grid={"lr": [0.1, 1.0]}))
    assert "lr 0.1: +0.0 points [+0.0, +0.0], n = 3 (no_batch_norm 0.900, batch_norm 0.900)." in text
    assert "lr 1: no pair of runs to compare (batch_norm 0.900); no_batch_norm: 3 of 3 runs diverged." in text
    assert "Each at its best learning rate (chosen by validation accuracy): no_batch_norm at 0.1 reaches 0.900" in text


def test_how_long_it_took_in_epochs_and_seconds():
    curves = {"no_batch_norm": (0.2, 0.3, 0.4, 0.5), "batch_norm": (0.4, 0.55, 0.7, 0.8)}
    text = str(_answer(lambda run: finished_record(*curves[run.network.key])))
    assert (
        "batch_norm reached the final test accuracy of no_batch_norm (0.500, after 4 epochs and 8 s) after 2 epochs and "
        "4 s (medians)." in text
    )
    assert "no_batch_norm never reached the final test accuracy of batch_norm (0.800, after 4 epochs and 8 s)." in text
    assert "An epoch of training with batch_norm takes 1.00 times [1.00, 1.00] as long as with no_batch_norm" in text


def test_the_training_accuracy_stands_beside_the_test_accuracy():
    text = str(_answer(_by_seed((0.80, 0.81, 0.82), (0.85, 0.86, 0.88))))
    assert "In training accuracy of the last epoch the difference there is +5.3 points [" in text


def test_a_drift_has_a_sentence_of_its_own():
    def outcome(run):
        return finished_record(0.7, test_accuracy_population=0.88 if run.network.key == "batch_norm" else None)

    text = str(_answer(outcome))
    assert "Also" in text
    assert (
        "batch_norm at lr 0.1: in 3 of 3 runs the same weights score more than a point differently under the moving "
        "average and under population statistics; on average 0.700 and 0.880" in text
    )


def test_an_interrupted_comparison_says_how_much_is_missing():
    answer = _answer(lambda run: finished_record(0.5) if run.seed < 2 else None)
    assert answer.incomplete == 2
    assert "2 runs of the plan have not ended, and are not in the figures." in str(answer)


def test_nothing_recorded_is_an_answer_too():
    text = str(_answer(lambda run: None))
    assert "no pair of runs to compare" in text
    assert "6 runs of the plan have not ended" in text


def test_other_settings_stand_in_the_heading():
    planned_grid = {"lr": [0.1], "trainset": ["normal", "not_normal"]}
    headings = [heading for heading, _ in _answer(lambda run: finished_record(0.5), grid=planned_grid).paragraphs()]
    assert [", trainset normal:" in headings[0], ", trainset not_normal:" in headings[1]] == [True, True]


def test_json_is_json_and_holds_the_sentences():
    content = json.loads(json.dumps(_answer(_by_seed((0.80, 0.81, 0.82), (0.85, 0.86, 0.88))).to_json()))
    (contrast,) = content["contrasts"]
    assert contrast["by_learning_rate"][0]["test"]["mean"] == pytest.approx(0.16 / 3)
    assert "So batch_norm bought +5.3 points of test accuracy." in contrast["sentences"]
    assert content["incomplete"] == 0


def test_a_difference_of_points_has_a_minus_sign_and_its_interval():
    assert Objective().difference(Interval(-0.012, -0.02, -0.004, 5)) == "−1.2 points [−2.0, −0.4], n = 5"


def _alike(answers, accuracy=0.7):
    """All runs end at one accuracy, of so many test answers."""
    return lambda run: finished_record(0.1, accuracy, test_answers=answers)


def test_ten_test_images_are_no_certainty():
    answer = _answer(_alike(10), seeds=2)
    text = str(answer)
    assert (
        "lr 0.1: +0.0 points [−25.9, +25.9], n = 2, counted on 10 answers; for new test examples [−61.2, +61.2] (no_batch_norm 0.700"
        in text
    )
    assert (
        "10 test examples are too few to say: the difference lies between −61.2 and +61.2 points, on either side of nothing. "
        "Use more test examples." in text
    )
    assert "bought nothing" not in text
    assert answer.headline == (
        "Whether batch_norm is better or worse in test accuracy cannot be said: +0.0 points (95 % interval for new test examples "
        "−61.2 to +61.2, n = 2). Use more test examples."
    )
    test = answer.to_json()["contrasts"][0]["best"]["test"]
    assert (test["n"], test["counted"]) == (2, 10)


@pytest.mark.parametrize(("answers", "certain"), [(10, False), (1000, False), (100_000, True), (None, True)])
def test_nothing_was_bought_only_where_so_many_answers_can_show_it(answers, certain):
    assert ("bought nothing" in str(_answer(_alike(answers), seeds=5))) is certain


def test_an_experiment_of_so_many_test_examples_says_how_many_answers_old_records_count():
    assert "counted on 50 answers" in str(_answer(_alike(None), test_examples=50))


def test_the_difference_in_training_counts_its_answers_too():
    text = str(_answer(lambda run: finished_record(0.1, 0.7, answers=20, test_answers=100_000)))
    assert "In training accuracy of the last epoch the difference there is +0.0 points [−8.9, +8.9], n = 3, counted on 20 answers." in text  # fmt: skip


_REGRESSION = TaskIdentity(loss="mse_loss", metric="r2_score")
_ERROR = TaskIdentity(loss="mse_loss", metric="mean_squared_error", goal="minimize")


def _scores(without, with_, **changes):
    values = {"no_batch_norm": without, "batch_norm": with_}
    return lambda run: finished_record(
        0.0,
        test_metric=values[run.network.key] * (1 + run.seed / 1e6),
        metric=0.0,
        **{"validation_metric": 0.0, **changes},
    )


@pytest.mark.parametrize(
    ("task", "outcome", "beginning"),
    [
        (
            _REGRESSION,
            _scores(-2.0002, -2.0),
            "Neither network learned: test r2_score −2 (no_batch_norm) and −2 (batch_norm) are not better than 0, the score of the",
        ),
        (
            _REGRESSION,
            _scores(-2.0, 0.004),
            "Neither network is shown to have learned: test r2_score −2 (no_batch_norm) and 0.004",
        ),
        (
            _ERROR,
            _scores(31.0, 30.0, test_constant=30.0),
            "Neither network learned: test mean_squared_error 31 (no_batch_norm) and 30 (batch_norm) are not better than 30, the",
        ),
        (
            TaskIdentity(),
            lambda run: finished_record(0.1, 0.1, test_answers=10_000, test_constant=0.1135),
            "Neither network learned: test accuracy 0.100 (no_batch_norm) and 0.100 (batch_norm) are not better than 0.114, the",
        ),
        (
            TaskIdentity(),  # 0.12 of 360 is what chance makes of 0.1 every fourth time
            lambda run: finished_record(0.1, 0.12, test_answers=360, test_constant=0.1),
            "Neither network is shown to have learned: test accuracy 0.120 (no_batch_norm) and 0.120 (batch_norm) are not clearly better",
        ),
    ],
    ids=["R²", "R², hardly", "an error", "accuracy", "accuracy, hardly"],
)
def test_where_neither_network_learned_nothing_was_bought_or_lost(task, outcome, beginning):
    answer = _answer(outcome, task=task)
    assert answer.headline.startswith(beginning)
    assert answer.headline in str(answer)
    assert answer.headline.endswith("So their difference says nothing about batch norm.")
    for word in (" better: ", " worse: ", "bought", "reached"):
        assert word not in str(answer)
    assert answer.to_json()["contrasts"][0]["best"]["neither_learned"] is True


@pytest.mark.parametrize(
    ("task", "outcome"),
    [
        (_REGRESSION, _scores(-2.0, 0.5)),
        (_REGRESSION, _scores(0.02, 0.03)),
        (_ERROR, _scores(31.0, 20.0, test_constant=30.0)),
        (TaskIdentity(), _by_seed((0.1, 0.1, 0.1), (0.9, 0.9, 0.9))),
        (TaskIdentity(metric="nets.py:own#0123"), _scores(-2.0, -2.0)),  # of which nothing is known
        # Its running statistics lag behind, and its weights have learned.
        (
            TaskIdentity(),
            lambda run: finished_record(0.1, test_constant=0.114, test_answers=359, test_accuracy_population=0.8),
        ),
    ],
)
def test_where_one_of_them_learned_the_difference_counts(task, outcome):
    answer = _answer(outcome, task=task)
    assert "Neither" not in str(answer)
    assert answer.to_json()["contrasts"][0]["best"]["neither_learned"] is False


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        (_REGRESSION, {}, "R² asks how much of the targets' variance is explained, and the test targets have none"),
        (_REGRESSION, {"test_loss": None}, "its loss on the test set is not finite either"),
        (TaskIdentity(metric="nets.py:own#0123"), {}, "the metric returned NaN or infinity"),
    ],
    ids=["constant targets", "no finite outputs", "a metric of one's own"],
)
def test_a_metric_that_is_undefined_is_named_as_the_cause(task, changes, reason):
    def outcome(run):
        return finished_record(0.5, test_metric=None if run.network.key == "batch_norm" else 0.5, **changes)

    text = str(_answer(outcome, task=task))
    name = Objective.of(task).name
    assert (
        f"lr 0.1: no pair of runs to compare (no_batch_norm 0.5); batch_norm: test {name} undefined in 3 of 3 runs."
        in text
    )
    assert f"batch_norm: its runs finished, but their test {name} is undefined: {reason}" in text
    assert "no run of" not in text


@pytest.mark.parametrize(
    ("networks", "outcome", "headline"),
    [
        (("alone",), lambda run: finished_record(0.5), "Nothing can be compared: there is no second network."),
        (
            ("no_batch_norm", "batch_norm"),
            lambda run: diverged_record(0.5),
            "Nothing can be compared: no run of no_batch_norm finished.",
        ),
        (("alone",), lambda run: None, "There is nothing to compare yet."),
    ],
    ids=["one network", "all diverged", "not trained"],
)
def test_a_headline_without_a_comparison_says_why(networks, outcome, headline):
    answer = _answer(outcome, networks=networks)
    assert answer.headline == headline
    is_alone = headline.endswith("second network.")
    assert str(answer).startswith(f"Also\n  {headline}") == is_alone
