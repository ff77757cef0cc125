"""Several processes that train one run together have the figures of one that has every batch whole."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from bnkit import Comparison
from tests.child_processes import run

HERE = Path(__file__).parents[1]  # the networks and the data stand beside
EXPERIMENT = (
    "--grid",
    "lr=0.5",
    "--seeds",
    "1",
    "--epochs",
    "3",
)
TIMED = ("run_id", "epoch_duration", "run_duration", "examples_per_second")
pytestmark = pytest.mark.slow


def _call(folder, networks, out, processes=2, batch_size=15, data=f"{HERE / 'tiny_experiment.py'}:data"):
    command = ["-m", "bnkit.cli.main", "compare", f"{HERE / 'ddp_networks.py'}:{networks}", *EXPERIMENT, "--out", out]
    command += ["--batch-size", str(batch_size), "--data", data]
    if processes > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    return run([sys.executable, *command], seconds=240, cwd=folder, environment={"OMP_NUM_THREADS": "1"})


def _figures(folder):
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMED} for row in csv.DictReader(file)]


def _scores(folder):
    """Of both runs, which test examples were answered right; what a run depends on has its number of processes."""
    return [
        record.example_scores.moving_average.tolist()
        for run in Comparison(folder).plan
        for record in [Comparison(folder).records[run.run_id]]
    ]


def test_two_processes_have_the_figures_of_one(tmp_path):
    together, alone = _call(tmp_path, "networks", "together"), _call(tmp_path, "networks", "alone", processes=1)
    assert (together.returncode, alone.returncode) == (0, 0), together.stderr + alone.stderr
    assert together.stdout.count("All runs, best first") == 1
    rows, expected = _figures(tmp_path / "together"), _figures(tmp_path / "alone")
    assert len(rows) == 6
    for row, wanted in zip(rows, expected, strict=True):
        for key in ("loss", "test_loss"):
            assert float(row.pop(key)) == pytest.approx(float(wanted.pop(key)), rel=1e-4)
        assert row == wanted
    assert _scores(tmp_path / "together") == _scores(tmp_path / "alone")
    text = (tmp_path / "together" / "experiment.toml").read_text()
    assert "processes = 2" in text


@pytest.mark.exhaustive
def test_data_that_differ_between_the_processes_are_refused(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\nimport torch\n\n\ndef data():\n"
        "    part = torch.rand(45, 6) + int.from_bytes(os.urandom(2), 'big'), torch.arange(45) % 3\n    return part, part\n"
    )
    said = _call(tmp_path, "networks", "r", data="mine.py:data")
    assert said.returncode != 0
    assert (
        "the data mine.py:data are not those that the plan was made for: they differ between processes" in said.stderr
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.exhaustive
def test_seeds_are_added_by_all_processes_together(tmp_path):
    options = [
        "--grid",
        "lr=0.05,0.5",
        "--epochs",
        "2",
        "--batch-size",
        "15",
        "--until",
        "decided",
        "--max-seeds",
        "4",
        "--margin",
        "5",
    ]
    experiment = [f"{HERE / 'ddp_networks.py'}:networks", "--data", f"{HERE / 'tiny_experiment.py'}:data"]
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "bnkit.cli.main",
        "compare",
    ]
    said = run(
        [sys.executable, *command, *experiment, *options, "--out", "r"],
        seconds=240,
        cwd=tmp_path,
        environment={"OMP_NUM_THREADS": "1"},
    )
    assert said.returncode == 0, said.stderr
    assert "no more seeds" in said.stderr
    assert {row["seed"] for row in _figures(tmp_path / "r")} == {"0", "1", "2", "3"}


@pytest.mark.torture
def test_a_process_dies_and_the_next_call_goes_on(tmp_path):
    died = _call(tmp_path, "mortal", "r")
    assert died.returncode != 0
    assert (tmp_path / "died").exists()
    recorded = _figures(tmp_path / "r") if (tmp_path / "r" / "results.csv").exists() else []
    assert _call(tmp_path, "mortal", "r").returncode == 0
    assert _call(tmp_path, "mortal", "undisturbed").returncode == 0
    assert _figures(tmp_path / "r") == _figures(tmp_path / "undisturbed")
    assert len(recorded) <= 6


@pytest.mark.torture
def test_a_batch_that_does_not_go_round_is_refused(tmp_path):
    said = _call(tmp_path, "networks", "r", batch_size=1)
    assert said.returncode != 0
    assert "leaves a last batch of 1 of 81 training examples for 2 processes" in said.stderr
    assert not (tmp_path / "r").exists()
