from __future__ import annotations

import json
import shutil

import pytest

import bnkit
from bnkit.comparison.compare_folders import merge_comparisons
from bnkit.errors import RecordError
from bnkit.report.answer_text import Answer
from tests.cli.cli_runner import invoke
from tests.experiments import tiny_experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), out=folder / "before", **tiny_experiment.EXPERIMENT)
    changed = {**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.05, 0.1], "batch_size": [16]}, "seeds": 3, "epochs": 2}
    bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), out=folder / "after", **changed)
    return folder


def test_the_runs_in_common_are_set_against_each_other(folders):
    first, second = bnkit.Comparison(folders / "before"), bnkit.Comparison(folders / "after")
    results = merge_comparisons([first, second])
    # lr 0.05 and seeds 0 and 1 are in both
    assert {(run.settings.lr, run.seed) for run in results.plan} == {(0.05, 0), (0.05, 1)}
    assert results.plan.networks == (
        "no_batch_norm.before",
        "no_batch_norm.after",
        "batch_norm.before",
        "batch_norm.after",
    )
    assert len(results.plan) == len({run.run_id for run in results.plan}) == 8
    contrasts = Answer.of(results).contrasts
    assert [(c.baseline, c.network) for c in contrasts] == [
        ("no_batch_norm.before", "no_batch_norm.after"),
        ("batch_norm.before", "batch_norm.after"),
    ]
    final = {
        (name, run.network.key, run.seed): comparison.records[run.run_id].last.test_accuracy
        for name, comparison in (("before", first), ("after", second))
        for run in comparison.plan
        if run.settings.lr == 0.05
    }
    expected = [final["after", "batch_norm", seed] - final["before", "batch_norm", seed] for seed in (0, 1)]
    assert contrasts[1].by_learning_rate[0].test.mean == pytest.approx(sum(expected) / 2)


def test_a_folder_and_its_copy_do_not_differ(folders, tmp_path):
    shutil.copytree(folders / "before", tmp_path / "copy")
    results = merge_comparisons([bnkit.Comparison(folders / "before"), bnkit.Comparison(tmp_path / "copy")])
    assert len(results.plan) == 16
    for contrast in Answer.of(results).contrasts:
        assert [at.test.mean for at in contrast.by_learning_rate] == [0.0, 0.0]


def test_folders_with_no_runs_in_common_stand_side_by_side_each_with_its_own_answer(
    folders, capsys, tmp_path, monkeypatch
):
    other = {**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.7], "batch_size": [16]}, "seeds": 1, "epochs": 1}
    bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), out=tmp_path / "other", **other)
    before, after = bnkit.Comparison(folders / "before"), bnkit.Comparison(tmp_path / "other")
    results = merge_comparisons([before, after])
    assert len(results.plan) == len(before.plan) + len(after.plan) == len(results.records)
    assert [(c.baseline, c.network, [at.lr for at in c.by_learning_rate]) for c in Answer.of(results).contrasts] == [
        ("before.no_batch_norm", "before.batch_norm", sorted({run.settings.lr for run in before.plan})),
        ("other.no_batch_norm", "other.batch_norm", [0.7]),
    ]
    alone = Answer.of(before.results).contrasts[0].by_learning_rate
    beside = Answer.of(results).contrasts[0].by_learning_rate
    assert [at.test for at in beside] == [at.test for at in alone]
    monkeypatch.chdir(tmp_path)
    assert invoke(capsys, "report", str(folders / "before"), "other", "--out", "both.html").status == 0
    text = (tmp_path / "both.html").read_text()
    assert "before and other side by side: they have no runs in common" in text
    assert all(f"bnkit compare {name}.toml" in text for name in ("before", "other"))


def test_folders_of_one_name_are_refused(folders):
    before = bnkit.Comparison(folders / "before")
    with pytest.raises(RecordError, match="two of the folders are called before"):
        merge_comparisons([before, before])


def test_the_command_writes_one_page(folders, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(capsys, "report", str(folders / "before"), str(folders / "after"), "--out", "change.html")
    assert result.status == 0
    assert "batch_norm.after against batch_norm.before" in result.out
    assert "report: change.html" in result.out
    assert "batch_norm.after" in (tmp_path / "change.html").read_text()
    content = json.loads(invoke(capsys, "report", str(folders / "before"), "--json").out)
    assert content["answer"]["contrasts"][0]["network"] == "batch_norm"
    assert invoke(capsys, "report", str(folders / "before"), "--out", "x.html").status == 2
    assert invoke(capsys, "report", str(folders / "before"), str(folders / "after"), "--out", "no/x.html").status == 2
