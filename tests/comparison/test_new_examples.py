"""From training to the answer: what test examples scored is recorded, read again, and missed where it is lost."""

from __future__ import annotations

import shutil

import pytest

import bnkit
from bnkit.experiments.records.example_scores import FILE
from tests.experiments import tiny_experiment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "r"
    options = {**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.5], "batch_size": [16]}, "seeds": 3}
    return bnkit.compare(tiny_experiment.NETWORKS, data=tiny_experiment.data(), out=out, **options)


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained.folder.path, tmp_path / "r")


def _new(comparison):
    return comparison.to_json()["answer"]["contrasts"][0]["best"]["test_new_examples"]


def test_every_run_has_its_file_and_the_answer_rests_on_them(trained):
    assert len(list(trained.folder.path.glob(f"runs/*/{FILE}"))) == len(trained.plan.runs) == 6
    for record in trained.records.values():
        scores = record.example_scores
        assert scores.moving_average.mean() == pytest.approx(record.last.test_accuracy)
        assert (scores.population is None) == (record.last.test_accuracy_population is None)
    new = _new(trained)
    assert (new["n"], new["recorded"], new["examples"]) == (3, 3, 30)
    assert "recorded" not in str(trained.answer)
    assert "; for new test examples [" in str(trained.answer)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_lost_file_counts_as_not_recorded(folder, content):
    before = bnkit.Comparison(folder)
    before.write_report()
    file = folder / "runs" / before.plan.runs[0].run_id / FILE
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    after = bnkit.Comparison(folder)
    assert _new(after)["recorded"] == 2
    assert "The file of test scores is missing or damaged in 1 run (1)" in str(after.answer)
    assert after.rows == before.rows
    after.refresh_report()
    assert "missing or damaged in 1 run" in after.folder.report_file.read_text(encoding="utf-8")


def test_nothing_is_trained_again_for_a_lost_file(folder):
    comparison = bnkit.Comparison(folder)
    for file in folder.glob(f"runs/*/{FILE}"):
        file.unlink()
    options = {**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.5], "batch_size": [16]}, "seeds": 3}
    again = bnkit.compare(tiny_experiment.NETWORKS, data=tiny_experiment.data(), out=folder, **options)
    assert again.rows == comparison.rows
    assert _new(again)["recorded"] == 0
    assert "Which test examples were answered right is not recorded" in str(again.answer)


def test_fresh_deletes_the_files(folder):
    options = {**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.5], "batch_size": [16]}, "seeds": 1, "epochs": 1}
    bnkit.compare(tiny_experiment.NETWORKS, data=tiny_experiment.data(), out=folder, fresh=True, **options)
    assert len(list(folder.glob(f"runs/*/{FILE}"))) == len(list(folder.glob("runs/*"))) == 2
