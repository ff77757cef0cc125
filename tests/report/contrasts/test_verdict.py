"""The verdict is that for new test examples, and the answer has both intervals."""

from __future__ import annotations

import json
import re
from statistics import NormalDist

import numpy as np
import pytest

from bnkit.experiments.experiment import TaskIdentity
from bnkit.experiments.records.example_scores import ExampleScores
from bnkit.intervals.holm import holm
from bnkit.intervals.interval import Conclusion
from bnkit.report.answer_text import Answer
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.contrasts.pairs_table import pairs_table
from bnkit.report.contrasts.verdict import without_remedy
from tests.report.fake_runs import ARMS, diverged_record, fake_plan, fake_results, finished_record, scored_record


def _right(examples, wrong, seed):
    """All answers right but those from and to which ``wrong`` says, and one more that the seed chooses."""
    right = np.ones(examples, bool)
    right[slice(*wrong)] = False
    right[wrong[1] + seed] = False
    return right


def _outcome(examples, wrong):
    return lambda run: scored_record(_right(examples, wrong[run.network.key], run.seed))


def _answer(outcome, **changes):
    return Answer.of(fake_results(fake_plan(**changes), outcome))


# Of 200 answers 8 more are right in each seed, but 20 differ: by chance that many would in 7 of 100 sets of examples.
_EIGHT = {"no_batch_norm": (0, 14), "batch_norm": (100, 106)}
_TEN = {"no_batch_norm": (0, 12), "batch_norm": (0, 2)}


def test_a_gain_on_these_examples_need_not_be_one_on_new_ones():
    answer = _answer(_outcome(200, _EIGHT))
    (contrast,) = answer.contrasts
    assert contrast.best.test.low > 0 > contrast.best.test_new_examples.low
    assert (
        "On these test examples batch_norm is better. For new ones 200 test answers are too few to say: the difference lies between"
        in str(answer)
    )
    assert answer.headline.startswith(
        "Whether batch_norm is better or worse in test accuracy cannot be said: +4.0 points (95 % interval for new test examples −"
    )
    assert answer.headline.endswith("Use more test examples: about 480, with 6 seeds.")


def test_a_gain_on_new_examples():
    answer = _answer(_outcome(200, _TEN))
    assert "So batch_norm bought +5.0 points of test accuracy." in str(answer)
    assert answer.headline.startswith(
        "batch_norm bought +5.0 points of test accuracy (95 % interval for new test examples +"
    )
    assert "; for new test examples [+" in str(answer)


def test_both_intervals_are_in_the_json():
    content = json.loads(json.dumps(_answer(_outcome(200, _TEN)).to_json()))
    (contrast,) = content["contrasts"]
    for place in (contrast["best"], contrast["by_learning_rate"][0]):
        these, new = place["test"], place["test_new_examples"]
        assert set(these) == {"mean", "low", "high", "n", "counted"}
        assert set(new) == {*these, "examples", "recorded", "from_examples"}
        assert new["low"] <= these["low"] <= these["high"] <= new["high"]
        assert (new["examples"], new["recorded"], new["mean"]) == (200, 3, these["mean"])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((0.9, 0.9), "n = 2 is too small for a verdict: use at least 3 seeds."),
        ((0.5, 0.5), "n = 2 is too small for a verdict: use at least 3 seeds."),
        ((0.4, 0.9), "n = 2 is too small to say: the difference lies between"),
    ],
    ids=["a gain", "no difference", "on either side"],
)
def test_two_pairs_have_no_verdict(values, sentence):
    def outcome(run):
        return finished_record(0.1, values[run.seed] if run.network.key == "batch_norm" else 0.5)

    text = str(_answer(outcome, seeds=2))
    assert sentence in text
    assert "bought" not in text


def test_that_neither_network_learned_is_said_first():
    planned = fake_plan(grid={"lr": [0.1, 1.0]})
    answer = Answer.of(
        fake_results(planned, lambda run: finished_record(0.1, 0.1, test_answers=10_000, test_constant=0.1135))
    )
    (_, (first, *rest)), *_ = answer.paragraphs()
    assert first.startswith("Neither network learned")
    assert not any(sentence.startswith("Neither") for sentence in rest)


@pytest.mark.parametrize(
    ("outcome", "changes", "note"),
    [
        (lambda run: finished_record(0.5), {}, "What each test example scored is not recorded, or"),
        (
            lambda run: finished_record(0.5, test_metric=0.5),
            {"task": TaskIdentity(metric="nets.py:own#0123")},
            "the metric is not a mean over examples: the verdict is for these test examples",
        ),
        (
            lambda run: finished_record(0.5, test_answers=100),
            {},
            "Which test examples were answered right is not recorded: intervals for new ones assume",
        ),
        (
            lambda run: finished_record(0.5, test_answers=200) if run.seed else scored_record(np.arange(200) > 99),
            {},
            "Which test examples were answered right is not recorded for up to 2 pairs of runs.",
        ),
        (
            lambda run: (
                finished_record(0.5, test_answers=200, test_scores="digest")
                if run.seed
                else scored_record(np.arange(200) > 99)
            ),
            {},
            "The file of test scores is missing or damaged in 4 runs (3, 4, 5, 6); what their examples scored counts as not recorded.",
        ),
    ],
    ids=["an old folder", "a metric of one's own", "no examples", "some without", "files lost"],
)
def test_what_is_not_known_is_said(outcome, changes, note):
    assert note in str(_answer(outcome, **changes))


def test_all_recorded_needs_no_note():
    assert "recorded" not in str(_answer(_outcome(200, _TEN)))


def test_per_example_errors_have_an_interval_for_new_examples():
    def outcome(run):
        errors = np.linspace(1, 3, 500) + (0.2 if run.network.key == "no_batch_norm" else 0.0) + 0.01 * run.seed
        record = finished_record(0.1, None, test_metric=float(errors.mean()), test_scores="digest")
        record.example_scores = ExampleScores(errors)
        return record

    answer = _answer(outcome, task=TaskIdentity(loss="mse_loss", metric="mean_squared_error", goal="minimize"))
    (contrast,) = answer.contrasts
    assert contrast.best.test_new_examples.high == pytest.approx(-0.2)
    assert "So batch_norm made the test mean_squared_error better: −0.2." in str(answer)


THREE = (*ARMS, "group_norm")


def _three():
    wrong = {"no_batch_norm": (0, 30), "batch_norm": (0, 12), "group_norm": (0, 16)}
    return contrasts(fake_results(fake_plan(THREE, seeds=5), _outcome(1000, wrong)))


def test_intervals_for_new_examples_leave_out_nothing_exactly_where_holm_rejects():
    found = _three()
    p_values = []
    for contrast in found:
        # By hand: all seeds agree on the examples, so that the interval is that of matched answers, by Bonett and Price.
        discordant = abs(round(1000 * contrast.best.test.mean))
        centre = discordant / 1002
        error = np.sqrt(((discordant + 2) / 1002 - centre**2) / 1002)
        p_values.append(2 * NormalDist().cdf(-centre / error))
    for contrast, p in zip(found, holm(p_values), strict=True):
        interval = contrast.best.test_new_examples
        assert (interval.low > 0 or interval.high < 0) == (p <= 0.05)
    assert [p <= 0.05 for p in holm(p_values)] == [True, True, False]


def test_the_table_of_pairs_has_both_intervals_and_the_verdict_of_the_second():
    ((_, table),) = pairs_table(_three()).items()
    header, rows = table
    assert header[5:9] == ("from", "to", "new from", "new to")
    for row in rows:
        values = [float(cell.replace("−", "-")) for cell in row[5:9]]
        assert values[2] <= values[0] <= values[1] <= values[3]
    assert [row[-1] for row in rows] == ["better", "better", "no difference"]


@pytest.mark.parametrize(
    ("width", "below"), [(40, ["new from", "new to", "from", "to"]), (80, ["from", "to"]), (120, [])]
)
def test_the_first_interval_is_set_below_before_the_second(width, below):
    ((_, table),) = pairs_table(_three()).items()
    text = "".join(f"{line}, " for _, line in table.lines(width))
    assert [
        title for title in ("new from", "new to", "from", "to") if re.search(f"[ ,]  ?{title}: ", f" {text}")
    ] == below


def _losing(lost, gain, **changes):
    """Seeds differ a little; ``lost`` names the runs that diverge, as (network, seed)."""

    def outcome(run):
        if (run.network.key, run.seed) in lost:
            return diverged_record(0.5)
        value = 0.8 + 0.0005 * (run.seed % 3) + gain * (run.network.key == "batch_norm") * (1 + 0.02 * (run.seed % 2))
        return finished_record(0.1, value, **{"test_answers": 10_000_000, "test_constant": 0.1, **changes})

    return outcome


WITH, PLAIN = "batch_norm", "no_batch_norm"
DIVERGED = {
    "the better one, often": (0.02, 5, {(WITH, 0), (WITH, 3)}, Conclusion.UNKNOWN),
    "the better one, once of twenty": (0.02, 20, {(WITH, 0)}, Conclusion.GAIN),
    "the better one, once, and it is much better": (0.3, 5, {(WITH, 0)}, Conclusion.GAIN),
    "the other one": (0.02, 5, {(PLAIN, 1)}, Conclusion.GAIN),
    "both as often": (0.02, 8, {(WITH, 0), (PLAIN, 1)}, Conclusion.GAIN),
    "the worse one, which would be worse still": (-0.02, 5, {(WITH, 0)}, Conclusion.LOSS),
    "the other, while it is better": (-0.02, 5, {(PLAIN, 0), (PLAIN, 1)}, Conclusion.UNKNOWN),
    "one of two that are equal": (0.0, 5, {(WITH, 0), (WITH, 1)}, Conclusion.UNKNOWN),
    "one of two that are equal, once of thirty": (0.0, 30, {(WITH, 0)}, Conclusion.NOTHING),
}


@pytest.mark.parametrize("name", DIVERGED)
def test_a_verdict_stands_only_if_the_runs_that_diverged_agree(name):
    gain, seeds, lost, expected = DIVERGED[name]
    answer = _answer(_losing(lost, gain), seeds=seeds)
    (contrast,) = answer.contrasts
    assert contrast.of_finished is not Conclusion.UNKNOWN
    assert contrast.verdict is expected
    diverged = [
        f"{network} diverged in {sum(network == of for of, _ in lost)} of {seeds} runs"
        for network in (PLAIN, WITH)
        if any(network == of for of, _ in lost)
    ]
    assert " and ".join(diverged) in answer.headline
    assert ("there is no verdict" in str(answer)) == (expected is Conclusion.UNKNOWN)
    assert ("bought" in str(answer)) == (expected in (Conclusion.GAIN, Conclusion.NOTHING))


def test_what_the_runs_that_diverged_change_is_said():
    lost = {(WITH, 0), (WITH, 3)}
    text = str(_answer(_losing(lost, 0.02), seeds=5))
    # By hand: three pairs with +2.0 points (in two seeds of them), two with 0.1 instead of about 0.8.
    assert (
        "So there is no verdict: over the seeds for which both runs finished, batch_norm is better, but batch_norm diverged in 2 of 5 "
        "runs; if these count as the best constant answer (0.100), the mean difference is −26.8 points. Use a lower learning "
        "rate for batch_norm."
    ) in text
    assert _answer(_losing(lost, 0.02), seeds=5).headline.endswith("points. Use a lower learning rate for batch_norm.")
    text = str(_answer(_losing({(PLAIN, 0), (PLAIN, 1)}, -0.02), seeds=5))
    assert "Use a lower learning rate for no_batch_norm." in text
    text = str(_answer(_losing({(WITH, 0), (WITH, 1), (WITH, 3), (PLAIN, 0)}, 0.02), seeds=6))
    assert "Use a lower learning rate for both networks." in text
    text = str(_answer(_losing(lost, 0.02, test_constant=None), seeds=5))  # as earlier versions recorded
    assert "if these count as an accuracy of 0, the mean difference is −30.8 points." in text
    text = str(_answer(_losing({(PLAIN, 1)}, 0.02), seeds=5))
    assert "That is of the seeds for which both runs finished; no_batch_norm diverged in 1 of 5 runs." in text


def test_without_a_score_to_count_them_as_the_runs_that_diverged_are_only_named():
    own = TaskIdentity(metric="nets.py:own#0123")

    def outcome(run):
        if (run.network.key, run.seed) in {(WITH, 0), (WITH, 1)}:
            return diverged_record(0.5)
        return finished_record(0.1, test_metric=0.5 + 0.02 * (run.network.key == WITH) + 0.0001 * run.seed)

    (contrast,) = _answer(outcome, seeds=5, task=own).contrasts
    assert (contrast.best.divergence.counts_as, contrast.verdict) == (None, Conclusion.GAIN)


@pytest.mark.parametrize(
    "sentence",
    ["Use more seeds.", "Use more test examples: about 1,300, with 10 seeds.", "Use a lower learning rate for net.v2.",
     "Use a lower learning rate for both networks.",
     "Use more test examples.", "Use more seeds and more test examples."],
)  # fmt: skip
def test_a_paper_has_the_headline_without_the_remedy(sentence):
    assert (
        without_remedy(f"It cannot be said: +1.2 points (n = 5). {sentence}")
        == "It cannot be said: +1.2 points (n = 5)."
    )
