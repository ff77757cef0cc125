"""Any table of runs gets an answer; what it lacks is named."""

from __future__ import annotations

import subprocess
import sys

import pandas
import pytest

import bnkit
from bnkit.errors import SettingsError
from bnkit.intervals.proportions import difference_interval
from bnkit.intervals.student import mean_interval

_PLAIN, _NORM = [0.90, 0.91, 0.90, 0.92], [0.93, 0.95, 0.93, 0.94]


def _frame(**changes):
    """Four seeds of two networks."""
    columns = {
        "network": ["no_batch_norm"] * 4 + ["batch_norm"] * 4,
        "seed": [0, 1, 2, 3] * 2,
        "accuracy": _PLAIN + _NORM,
    }
    return pandas.DataFrame({**columns, **changes})


def _with_rates():
    """The same at two learning rates; at the second, batch norm is worse."""
    first, second = _frame(lr=0.1), _frame(lr=0.3, accuracy=_NORM + _PLAIN)
    return pandas.concat([first, second], ignore_index=True)


def test_the_answer_is_that_of_the_paired_differences():
    comparison = bnkit.Comparison.from_frame(_frame(), metric="accuracy", examples=50_000)
    (contrast,) = comparison.answer.contrasts
    differences = [after - before for before, after in zip(_PLAIN, _NORM, strict=True)]
    assert contrast.best.test == difference_interval(differences, 50_000)
    assert (contrast.baseline, contrast.network) == ("no_batch_norm", "batch_norm")
    assert contrast.best.test_new_examples.low < contrast.best.test.low  # of new examples less is known
    assert str(comparison.answer).splitlines()[1].endswith("(no_batch_norm 0.907, batch_norm 0.938).")
    assert isinstance(comparison, bnkit.Comparison)


def test_each_setting_is_compared_by_itself():
    comparison = bnkit.Comparison.from_frame(_with_rates(), metric="accuracy", settings=["lr"], examples=50_000)
    differences = [(contrast.setting, round(contrast.best.test.mean, 6)) for contrast in comparison.answer.contrasts]
    assert differences == [({"lr": 0.1}, 0.03), ({"lr": 0.3}, -0.03)]
    assert comparison.answer.headline.startswith(
        "With lr 0.1: batch_norm bought +3.0 points of accuracy (95 % interval for new"
    )
    frame = comparison.summary()
    assert list(frame["lr"]) == [0.1, 0.1, 0.3, 0.3] and list(frame["n"]) == [4] * 4
    assert frame["difference"][3] == pytest.approx(-0.03)


def test_one_setting_may_be_given_by_its_name_alone():
    named = bnkit.Comparison.from_frame(_with_rates(), metric="accuracy", settings="lr", examples=50_000)
    listed = bnkit.Comparison.from_frame(_with_rates(), metric="accuracy", settings=["lr"], examples=50_000)
    assert named.answer == listed.answer


def test_a_metric_of_any_scale():
    frame = _frame(**{"val/loss": [1.0, 1.1, 1.2, 1.0, 0.5, 0.6, 0.5, 0.4]})
    comparison = bnkit.Comparison.from_frame(frame, metric="val/loss", minimize=True)
    (contrast,) = comparison.answer.contrasts
    expected = mean_interval([-0.5, -0.5, -0.7, -0.6])
    test = contrast.best.test
    assert (test.mean, test.low, test.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert comparison.answer.headline.startswith("batch_norm made the val/loss better: −0.575")
    assert "less is better" in str(comparison.answer)


def test_several_networks_have_intervals_for_several_pairs():
    third = _frame().iloc[:4].assign(network="group_norm", accuracy=[0.905, 0.92, 0.91, 0.93])
    comparison = bnkit.Comparison.from_frame(pandas.concat([_frame(), third]), metric="accuracy", examples=50_000)
    pairs = [(contrast.baseline, contrast.network, contrast.pairs) for contrast in comparison.answer.contrasts]
    assert pairs == [
        ("no_batch_norm", "batch_norm", 3),
        ("no_batch_norm", "group_norm", 3),
        ("group_norm", "batch_norm", 3),
    ]
    assert list(comparison.summary()["baseline"][1:]) == ["no_batch_norm", "no_batch_norm"]


@pytest.mark.parametrize(
    ("values", "baseline", "expected"),
    [
        (["plain", "norm"], None, ("plain", "norm")),
        (["plain", "norm"], "norm", ("norm", "plain")),
        ([True, False], None, ("use_bn=False", "use_bn=True")),
        ([True, False], True, ("use_bn=True", "use_bn=False")),
        ([3, 1], 1, ("use_bn=1", "use_bn=3")),
    ],
)
def test_the_baseline(values, baseline, expected):
    frame = _frame(use_bn=[values[0]] * 4 + [values[1]] * 4)
    comparison = bnkit.Comparison.from_frame(frame, metric="accuracy", network="use_bn", baseline=baseline)
    (contrast,) = comparison.answer.contrasts
    assert (contrast.baseline, contrast.network) == expected


@pytest.mark.parametrize(
    ("frame", "notes", "pairs"),
    [
        (
            _frame().drop(index=[7]),
            ["Left out: 1 of 7 runs of no_batch_norm, for no other network has one with the same seed: seed 3."],
            3,
        ),
        (
            _frame(accuracy=[float("nan"), float("inf"), *_PLAIN[2:], *_NORM]),
            ["Left out: 2 of 8 runs, without a finite accuracy: no_batch_norm seed 0; no_batch_norm seed 1."],
            2,
        ),
        (
            pandas.concat([_frame(), _frame().iloc[:2]]),
            ["Left out: 2 of 10 rows, which repeat another with the same accuracy."],
            4,
        ),
        (
            pandas.concat([_frame(epoch=5), _frame(epoch=4, accuracy=0.5).iloc[:1]]),
            [
                (
                    "Left out: 2 of 9 rows. 1 run with several rows that have different accuracy (no_batch_norm, seed 0: 2 rows); they "
                    "differ in epoch: name what is a setting in settings=[...], or keep one row for each run."
                ),
                "Left out: 1 of 7 runs of batch_norm, for no other network has one with the same seed: seed 0.",
            ],
            3,
        ),
        (
            _frame(seed=[None, 1, 2, 3, 0, 1, 2, 3]),
            [
                "Left out: 1 of 8 rows, without a network or a seed.",
                "Left out: 1 of 7 runs of batch_norm, for no other network has one with the same seed: seed 0.",
            ],
            3,
        ),
    ],
    ids=["no partner", "not finite", "repeated", "several rows of a run", "no seed"],
)
def test_what_is_left_out_is_named_and_counted(frame, notes, pairs):
    comparison = bnkit.Comparison.from_frame(frame, metric="accuracy", examples=50_000)
    *about, about_examples = comparison.answer.notes
    assert about == notes and about_examples.startswith(
        "The table does not say which test examples were answered right"
    )
    assert comparison.answer.contrasts[0].best.test.n == pairs
    assert notes[0] in str(comparison.answer) and notes[0] in comparison._repr_html_().replace("&#39;", "'")


def test_a_network_that_lacks_runs_of_the_baseline_is_named():
    third = _frame().iloc[:3].assign(network="group_norm", accuracy=[0.905, 0.92, 0.91])
    comparison = bnkit.Comparison.from_frame(pandas.concat([_frame(), third]), metric="accuracy", examples=50_000)
    assert comparison.answer.notes[0] == (
        "group_norm has no partner for 1 run of no_batch_norm with the same seed: seed 3."
    )


def test_an_accuracy_of_unknown_examples_is_said_to_be_one():
    comparison = bnkit.Comparison.from_frame(_frame(), metric="accuracy")
    note, about_examples = comparison.answer.notes
    assert "with examples=N" in note and "need not hold for new ones" in about_examples
    assert comparison.answer.contrasts[0].objective.is_accuracy


_BAD = {
    "a list": ([1], {}, "the table is a list; expected a pandas.DataFrame with a row for each run"),
    "no column": (_frame(), {"metric": "acuracy"}, "no column 'acuracy'; it has network, seed, accuracy; did you mean 'accuracy'"),
    "many columns": (
        _frame(**{f"c{number}": 0 for number in range(30)}),
        {"metric": "loss"},
        r"no column 'loss'; it has network, .* and 13 more$",
    ),
    "one network": (_frame(network="a", seed=range(8)), {}, "column 'network' has 1 network, a; expected at least two"),
    "no pairs": (
        _frame(seed=range(8)),
        {"examples": 10},
        "no pair of runs has the same seed, .* Left out: 4 of 8 runs of no_batch_norm, .*: seed 0; seed 1; seed 2; seed 3. Left out",
    ),
    "settings not named": (
        _with_rates(),
        {},
        r"8 runs with several rows that have different accuracy .*; they differ in lr: name what is a setting in settings=\[...\]",
    ),
    "text": (_frame(accuracy="0.9"), {}, r"column 'accuracy' holds '0.9', a str; expected numbers: df\['accuracy'\].astype\(float\)$"),
    "percent signs": (_frame(accuracy="90%"), {}, "column 'accuracy' holds '90%', a str; expected numbers$"),
    "truth values": (_frame(accuracy=True), {}, r"holds True, a bool; expected numbers: df\['accuracy'\].astype\(float\)$"),
    "figures without a square": (_frame(accuracy=-1e200), {}, r"'accuracy' holds -1e\+200; expected figures of at most 1e\+150, or inf$"),
    "nothing": (pandas.DataFrame(), {}, "the table has no column 'network': it has none; expected a row for each run"),
    "the seed in the index": (
        _frame().set_index(["network", "seed"]),
        {},
        r"no column 'network': the index has this name; make it a column with df.reset_index\(\)$",
    ),
    "names of two levels": (  # of which the spread would have been read as a setting
        _frame().groupby(["network", "seed"]).agg({"accuracy": ["mean", "std"]}).reset_index(),
        {},
        r"have names of 2 levels, such as \('accuracy', 'std'\); expected one: df.columns = ",
    ),
    "names that are numbers": (
        _frame().set_axis([0, 1, 2], axis=1),
        {"network": "0", "seed": "1", "metric": "2"},
        r"no column '0': its column of this name is named by a number; make the names text with df.rename\(columns=str\)$",
    ),
    "a number for a name": (_frame(), {"metric": 2}, "metric=2; expected the name of one column, as text$"),
    "two metrics": (_frame(), {"metric": ["accuracy"]}, r"metric=\['accuracy'\]; expected the name of one column, as text$"),
    "no settings": (_frame(), {"settings": None}, r"settings=None; expected the names of columns, such as \['lr', 'batch_size'\]$"),
    "a setting without a name": (_frame(), {"settings": [3]}, r"settings=\[3\]; expected the names of columns"),
    "seeds as numbers and as text": (
        _frame(seed=[0, 1, 2, 3, "0", "1", "2", "3"]),
        {},
        r"column 'seed' holds both 0 and '0', which do not pair; give them one type: df\['seed'\].astype\(str\)$",
    ),
    "settings as numbers and as text": (
        _frame(lr=[0.1] * 4 + ["0.1"] * 4),
        {"settings": "lr"},
        "column 'lr' holds both 0.1 and '0.1', which do not pair",
    ),
    "lists": (_frame(seed=[[1]] * 8), {}, "column 'seed' holds a list; expected numbers or text"),
    "percent": (_frame(accuracy=91.0), {"examples": 10}, "'accuracy' goes from 91 to 91: divide percents by 100"),
    "minimized accuracy": (_frame(), {"examples": 10, "minimize": True}, "'accuracy' is minimized: leave examples out"),
    "examples": (_frame(), {"examples": 0}, "examples=0; expected how many test examples"),
    "minimize": (_frame(), {"minimize": "yes"}, "minimize='yes'; expected True or False"),
    "baseline": (_frame(), {"baseline": "no_batchnorm"}, "no network is called 'no_batchnorm'; .*did you mean 'no_batch_norm'"),
    "twice": (_frame(), {"settings": "seed"}, "column 'seed' is given twice"),
    "reserved": (_frame(n=1), {"settings": "n"}, "the setting 'n' has the name of a column of the summary"),
    "same name twice": (
        pandas.concat([_frame(), _frame()[["seed"]]], axis=1),
        {},
        "the table has several columns 'seed'",
    ),
    "empty": (_frame().iloc[:0], {}, "column 'network' has 0 networks; expected at least two"),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "arguments", "message"), _BAD.values(), ids=_BAD)
def test_a_table_that_gives_no_answer(frame, arguments, message):
    with pytest.raises(SettingsError, match=message) as error:
        bnkit.Comparison.from_frame(frame, **{"metric": "accuracy", **arguments})
    assert "\n" not in str(error.value)


def test_a_table_of_another_library_is_converted():
    class Other:
        def to_pandas(self):
            return _frame()

    assert bnkit.Comparison.from_frame(Other(), metric="accuracy").answer.contrasts


def test_what_a_table_gives():
    comparison = bnkit.Comparison.from_frame(_frame(), metric="accuracy", examples=50_000)
    header, rows = comparison.table()
    assert header == ("network", "seed", "accuracy") and rows[0] == ("batch_norm", "1", "0.950")
    assert comparison.rows[0] == {"network": "no_batch_norm", "seed": 0, "accuracy": 0.90}
    assert len(comparison.data_frame()) == 8
    assert comparison.further_tables() == {}
    assert comparison.to_json()["answer"]["contrasts"][0]["best"]["test"]["n"] == 4
    assert repr(comparison).startswith("Comparison.from_frame: 8 runs\n\nbatch_norm against no_batch_norm")
    assert r"batch\_norm" in comparison.to_latex() and "| batch_norm |" in comparison.to_markdown()
    assert comparison._repr_html_().count("<svg ") == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda comparison: comparison.load(1),
        lambda comparison: comparison.best("batch_norm"),
        lambda comparison: comparison.records,
        lambda comparison: comparison.results,
        lambda comparison: comparison.write_report(),
        lambda comparison: comparison.figures(),
        lambda comparison: comparison.data(1),
        lambda comparison: comparison.folder,
    ],
)
def test_what_only_a_results_folder_has_is_said_to_be_missing(ask):
    comparison = bnkit.Comparison.from_frame(_frame(), metric="accuracy")
    with pytest.raises(
        SettingsError, match="made from a table: it has no results folder, so no runs to load, no curves"
    ):
        ask(comparison)
    with pytest.raises(AttributeError, match="'Comparison' object has no attribute 'speed'"):
        _ = comparison.speed


@pytest.mark.slow
def test_without_pandas_one_line_says_what_to_install():
    code = "import sys; sys.modules['pandas'] = None\nimport bnkit; bnkit.Comparison.from_frame([], metric='a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.splitlines()[-1].endswith(
        "a table of runs needs pandas, which is not installed; pip install 'bnkit[frame]'"
    )
