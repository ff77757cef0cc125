"""A results folder of an earlier version: it is read, and its runs are not trained again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bnkit
from tests.cli.cli_runner import invoke

# Written by bnkit before its modules had their present names, and before a run's identity covered the user's modules; without weights.
FORMER = Path(__file__).with_name("former_folder")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FORMER, tmp_path / "former")


def test_its_figures_are_those_that_were_written(folder):
    comparison = bnkit.Comparison(folder)
    written = (FORMER / "results.csv").read_text().splitlines()
    names = written[0].split(",")
    assert len(comparison.rows) == len(written) - 1 == 8
    for row, line in zip(comparison.rows, written[1:], strict=True):
        expected = dict(zip(names, line.split(","), strict=True))
        assert {name: "" if row[name] is None else str(row[name]) for name in names} == expected
    assert comparison.best("batch_norm").seed in (0, 1)


def test_its_report_is_written(capsys, folder):
    result = invoke(capsys, "report", str(folder))
    assert result.status == 0
    assert "batch_norm against no_batch_norm" in result.out
    assert (folder / "results.csv").read_text() == (FORMER / "results.csv").read_text()


@pytest.mark.slow
def test_nothing_is_trained_again(capsys, folder):
    records = {path: path.read_bytes() for path in folder.rglob("record.jsonl")}
    result = invoke(capsys, "compare", str(folder / "experiment.toml"), "--out", str(folder), "--device", "cpu")
    assert result.status == 0, result.err
    assert {path: path.read_bytes() for path in folder.rglob("record.jsonl")} == records
