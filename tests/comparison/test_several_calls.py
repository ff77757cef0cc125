"""Several calls into one folder: their runs accumulate, and the report covers those that answer the same question."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import torch

import bnkit
from bnkit.experiments.records.earlier_compare_calls import CALLS
from tests.cli.cli_runner import invoke
from tests.experiments import tiny_experiment
from tests.experiments.records.test_former_folder import FORMER

pytestmark = pytest.mark.slow


def _compare(out, networks=tiny_experiment.NETWORKS, data=None, **changes):
    settings = {"grid": {"lr": [0.05], "batch_size": [16]}, "seeds": 2, "epochs": 1, "validation": 0.2, **changes}
    data = tiny_experiment.data() if data is None else data
    return bnkit.compare(networks, data, out=out, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four calls: another learning rate, another question, and at last more seeds, another network and a key of the grid."""
    out = tmp_path_factory.mktemp("r") / "r"
    _compare(out)
    _compare(out, grid={"lr": [0.5], "batch_size": [16]}, seeds=1)
    _compare(out, seeds=1, epochs=2)
    return out


@pytest.fixture(scope="module")
def comparison(folder):
    networks = {
        **tiny_experiment.NETWORKS,
        "deep": lambda: torch.nn.Sequential(tiny_experiment.plain(), torch.nn.ReLU()),
    }
    grid = {"lr": [0.05], "batch_size": [16], "bn_momentum": [0.3]}
    return _compare(folder, networks, grid=grid, seeds=[2], name="last")


def _points(runs):
    return [(run.network.key, run.settings.lr, run.settings.bn_momentum, run.seed) for run in runs]


OWN = [("no_batch_norm", 0.05, None, 2), ("batch_norm", 0.05, 0.3, 2), ("deep", 0.05, None, 2)]
EARLIER = [
    ("no_batch_norm", 0.5, None, 0), ("batch_norm", 0.5, "default", 0),
    ("no_batch_norm", 0.05, None, 0), ("batch_norm", 0.05, "default", 0),
    ("no_batch_norm", 0.05, None, 1), ("batch_norm", 0.05, "default", 1),
]  # fmt: skip


def test_the_runs_of_this_call_come_first_then_those_of_earlier_ones(comparison):
    assert _points(comparison.plan) == OWN
    results = comparison.results
    assert _points(results.plan) == OWN + EARLIER
    assert [run.number for run in results.plan] == list(range(1, 10))
    assert results.own == {run.run_id for run in comparison.plan}
    assert all(results.records[run.run_id].last is not None for run in results.plan)
    assert results.plan.experiment.seeds == (2, 0, 1)


def test_they_are_in_the_table_the_csv_and_the_answer(comparison):
    header, rows = comparison.table()
    call, run = header.index("call"), header.index("run")
    assert {row[run]: row[call] for row in rows} == {
        str(number): "this" if number <= 3 else "earlier" for number in range(1, 10)
    }
    with comparison.folder.results_file.open() as file:
        written = list(csv.DictReader(file))
    assert [row["run_id"] for row in written] == [run.run_id for run in comparison.results.plan]
    assert [row["bn_momentum"] for row in written] == ["", "0.3", "", *("", "default") * 3]
    assert comparison.data_frame()["run"].tolist() == list(range(1, 10))
    answer = str(comparison.answer)
    assert "The figures are of 9 runs: 3 of this call, and 6 of earlier calls into the same folder" in answer
    pairs = [c for c in comparison.answer.contrasts if (c.network, c.baseline) == ("batch_norm", "no_batch_norm")]
    by_setting = {c.setting["bn_momentum"]: c for c in pairs}
    of_earlier = {at.lr: at.test.n for at in by_setting["default"].by_learning_rate if at.test is not None}
    assert of_earlier == {0.05: 2, 0.5: 1}
    assert comparison.to_json()["this_call"] == [run.run_id for run in comparison.plan]


def test_runs_of_another_question_are_named_and_not_mixed(comparison):
    note = "The folder holds 2 more runs in answer to another question, not counted here: epochs 2 in place of 1 (calls/0003.toml)."
    assert comparison.answer.notes[-1] == note
    assert note in comparison.folder.report_file.read_text()
    assert {run.epochs for run in comparison.results.plan} == {1}


def test_the_folder_alone_says_the_same(comparison, capsys):
    again = bnkit.Comparison(comparison.folder.path)
    assert again.rows == comparison.rows
    assert again.plan.runs == comparison.plan.runs
    written = comparison.folder.results_file.read_text()
    result = invoke(capsys, "report", str(comparison.folder.path))
    assert "6 of earlier calls" in result.out
    assert comparison.folder.results_file.read_text() == written
    content = json.loads(invoke(capsys, "report", str(comparison.folder.path), "--json").out)
    assert content["answer"]["notes"] == list(comparison.answer.notes)


def test_the_page_marks_them_and_repeats_this_call_alone(comparison):
    page = comparison.folder.report_file.read_text()
    assert '<td class="words">earlier</td>' in page
    assert "bnkit compare last.toml" in page
    assert "seeds = [\n    2,\n]" in page


def test_a_run_of_an_earlier_call_is_loaded(comparison):
    run = comparison.results.plan.runs[-1]
    assert comparison.load(run).norm.momentum == 0.1
    assert comparison.run(run.run_id) == comparison.run(run.number) == run
    assert comparison.run(comparison.plan.runs[0]).run_id == comparison.plan.runs[0].run_id


def test_the_same_call_again_adds_nothing(folder, comparison):
    calls = sorted(path.name for path in (folder / CALLS).iterdir())
    assert calls == ["0001.toml", "0002.toml", "0003.toml", "0004.toml"]
    _compare(folder)
    assert sorted(path.name for path in (folder / CALLS).iterdir()) == calls


def test_fresh_removes_the_runs_of_earlier_calls(tmp_path):
    _compare(tmp_path / "r", seeds=1)
    comparison = _compare(tmp_path / "r", seeds=[1], fresh=True)
    assert [path.name for path in (tmp_path / "r" / CALLS).iterdir()] == ["0001.toml"]
    assert (comparison.results.own, comparison.answer.notes) == (None, ())


def test_arms_of_one_architecture_accumulate_with_those_of_earlier_calls(tmp_path):
    def compare(*arms):
        return _compare(tmp_path / "r", tiny_experiment.plain, arms=arms)

    compare("no_batch_norm", "batch_norm")
    comparison = compare("group_norm")
    assert comparison.plan.networks == ("group_norm",)
    assert [(c.network, c.baseline) for c in comparison.answer.contrasts] == [
        ("group_norm", "no_batch_norm"),
        ("batch_norm", "no_batch_norm"),
        ("group_norm", "batch_norm"),
    ]
    assert comparison.best("batch_norm").seed in (0, 1)


def test_runs_of_an_earlier_version_are_counted(tmp_path):
    """It kept the experiment of its last call."""
    out = tmp_path / "r"
    shutil.copytree(FORMER, out)
    content = (out / "experiment.toml").read_text().replace("    0,\n    1,\n", "    0,\n")
    (out / "experiment.toml").write_text(content)
    notes = bnkit.Comparison(out).answer.notes
    text = "holds 2 more runs in answer to another question, not counted here: of calls that an earlier version"
    assert sum(text in note for note in notes) == 1


def test_arms_with_a_dictionary_are_refused(tmp_path):
    with pytest.raises(bnkit.errors.SettingsError, match="arms with a dictionary of networks, which are the arms"):
        _compare(tmp_path / "r", arms=["batch_norm"])
    with pytest.raises(bnkit.errors.SettingsError, match="unknown arm 'layer_norm'; expected one of no_batch_norm"):
        _compare(tmp_path / "r", tiny_experiment.plain, arms="layer_norm")
