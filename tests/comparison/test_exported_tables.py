"""Tables in exactly the form in which W&B and MLflow export runs, read by the code of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas
import pytest

import bnkit
from bnkit.intervals.proportions import difference_interval

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sweeps.md"
ACCURACIES = {"no_batch_norm": [0.90, 0.91, 0.90, 0.92], "batch_norm": [0.93, 0.95, 0.93, 0.94]}
DIFFERENCES = [after - before for before, after in zip(*ACCURACIES.values(), strict=True)]
RUNS = [(network, seed, value) for network, values in ACCURACIES.items() for seed, value in enumerate(values)]

# W&B's table of runs, exported without grouping: every value in quotes, empty where a run has none, nested settings and summaries
# joined by dots. First what it knows of a run, then settings, then figures, both sorted.
CSV = """\
"Name","State","Notes","User","Tags","Created","Runtime","Sweep","amsgrad","lr","network","optimizer.name","seed","epoch","test_accuracy","test_loss.min"
"""


def _csv_row(name, state, lr, network, seed, accuracy):
    values = (
        name,
        state,
        "-",
        "me",
        "",
        "2026-11-13T09:48:11.000Z",
        9910,
        "",
        "false",
        lr,
        network,
        "sgd",
        seed,
        19,
        accuracy,
        0.3,
    )
    return ",".join(f'"{value}"' for value in values) + "\n"


def _run(name):
    """The code of the documentation, run; the comparison that it makes."""
    (code,) = re.findall(
        rf'^```python title="{name}"\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    namespace = {}
    exec(compile(code, name, "exec"), namespace)  # noqa: S102
    return namespace["comparison"], namespace["table"]


def _assert_answer(comparison, setting, notes=()):
    (contrast,) = comparison.answer.contrasts
    assert (contrast.baseline, contrast.network, contrast.setting) == ("no_batch_norm", "batch_norm", setting)
    assert contrast.best.test == difference_interval(DIFFERENCES, 10_000)
    assert comparison.answer.notes[: len(notes)] == tuple(notes)


def test_the_file_that_the_table_of_wandb_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [_csv_row(f"fluent-river-{seed}", "finished", 0.1, network, seed, value) for network, seed, value in RUNS]
    rows += [
        _csv_row("amber-sea-8", "crashed", 0.1, "batch_norm", 3, 0.11),  # a second try of seed 3
        _csv_row("diverged-9", "finished", 0.1, "batch_norm", 4, "NaN"),
        _csv_row("diverged-10", "finished", 0.1, "no_batch_norm", 4, "Infinity"),
    ]
    Path("wandb_export.csv").write_text(CSV + "".join(rows))
    comparison, table = _run("from_wandb_file.py")
    note = "Left out: 2 of 10 runs, without a finite test_accuracy: batch_norm lr 0.1, seed 4; no_batch_norm lr 0.1, seed 4."
    _assert_answer(comparison, {"lr": 0.1}, [note])
    assert "+3.0 points" in capsys.readouterr().out
    by_dots = bnkit.Comparison.from_frame(
        table, metric="test_loss.min", settings=["optimizer.name", "lr"], minimize=True
    )
    assert by_dots.answer.contrasts[0].setting == {"optimizer.name": "sgd", "lr": 0.1}


@pytest.fixture
def wandb_runs(tmp_path, monkeypatch):
    """What W&B's API returns, without its server: its own class for runs, from what a server answers."""
    import wandb
    from wandb.apis.public.runs import Run

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rows = [(network, seed, value) for network, seed, value in RUNS] + [
        ("batch_norm", 4, "NaN"),  # as W&B writes what JSON has no number for
        ("no_batch_norm", 4, "Infinity"),
    ]
    found = [
        Run(
            None, "me", "norm", f"id{number}", lazy=False,
            attrs={
                "name": f"id{number}", "displayName": f"run-{number}", "state": "finished", "id": "",
                "config": json.dumps({
                    "network": {"value": network}, "seed": {"value": seed}, "lr": {"value": 0.1}, "layers": {"value": [3, 4]},
                    "optimizer": {"value": {"name": "sgd", "momentum": 0.9}}, "_wandb": {"value": {"cli_version": "0.31"}},
                }),
                "summaryMetrics": json.dumps({
                    "test_accuracy": value, "test_loss": {"min": 0.5 - 0.1 * (network == "batch_norm")}, "epoch": 19, "_step": 19,
                    "_runtime": 12.5, "_timestamp": 1.7e9, "_wandb": {"runtime": 12},
                    "examples": {"_type": "table-file", "path": "media/table/a.json", "nrows": 3},
                }),
            },
        )
        for number, (network, seed, value) in enumerate(rows)
    ]  # fmt: skip

    class Api:
        def runs(self, path, filters):
            assert (path, filters) == ("me/norm", {"state": "finished"})
            return found

    monkeypatch.setattr(wandb, "Api", Api)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_api_of_wandb(wandb_runs, capsys):
    comparison, table = _run("from_wandb.py")
    note = "Left out: 2 of 10 runs, without a finite test_accuracy: batch_norm lr 0.1, seed 4; no_batch_norm lr 0.1, seed 4."
    _assert_answer(comparison, {"lr": 0.1}, [note])
    assert {"optimizer.name", "test_loss.min", "_runtime"} <= set(table.columns)
    losses = bnkit.Comparison.from_frame(table, metric="test_loss.min", settings=["optimizer.momentum"], minimize=True)
    assert losses.answer.contrasts[0].best.test.mean == pytest.approx(-0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy and of MLflow
def test_what_mlflow_searches(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    try:
        mlflow.set_experiment("norm")
        diverged = [("batch_norm", 4, float("nan")), ("no_batch_norm", 4, float("inf"))]
        for network, seed, value in [*RUNS, *diverged]:
            with mlflow.start_run():
                mlflow.log_params({"network": network, "seed": seed, "lr": 0.1})
                mlflow.log_metrics({"test_accuracy": value / 2}, step=0)
                mlflow.log_metrics({"test_accuracy": value}, step=1)
        with pytest.raises(RuntimeError), mlflow.start_run():
            mlflow.log_params({"network": "batch_norm", "seed": 3, "lr": 0.1})
            mlflow.log_metric("test_accuracy", 0.11)
            raise RuntimeError
        comparison, table = _run("from_mlflow.py")
    finally:
        mlflow.set_tracking_uri(before)
    assert {"run_id", "status", "params.network", "metrics.test_accuracy", "tags.mlflow.runName"} <= set(table.columns)
    assert isinstance(table, pandas.DataFrame) and len(table) == 10
    _assert_answer(comparison, {"params.lr": "0.1"})
    (note,) = [note for note in comparison.answer.notes if note.startswith("Left out")]
    assert note.startswith("Left out: 2 of 10 runs, without a finite metrics.test_accuracy: ")
