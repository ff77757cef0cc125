"""The command, the function and an experiment file: the same comparison; and code that changed between two calls."""

from __future__ import annotations

import inspect
import json

import pytest

import bnkit
from bnkit.cli.main import main
from bnkit.experiments.experiment import (
    DEFAULT_GRID,
    DEFAULT_SEEDS,
    Experiment,
    default_experiment,
    parse_experiment,
    read_recipe,
)
from tests.experiments import tiny_experiment
from tests.user_project import a_project  # noqa: F401 - the fixture

_NET = """from torch import nn
def make(dropout=0.5):
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
"""
_DATA = "from tests.experiments.tiny_experiment import data\n"


def _asked(*arguments):
    """What ``bnkit compare`` makes of its arguments, without training anything."""
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    assert end.value.code == 0


def test_the_function_has_the_defaults_of_an_experiment():
    parameters = inspect.signature(bnkit.compare).parameters
    experiment = parse_experiment(default_experiment("t", ["mlp"]), "here")
    for name in (
        "data",
        "validation",
        "drop_last",
        "observe",
        "threads",
        "loss",
        "metric",
        "training_step",
        "augmentation",
    ):
        assert parameters[name].default == getattr(experiment, name) == Experiment.model_fields[name].default, name
    assert parameters["epochs"].default == experiment.epochs
    assert parameters["seeds"].default is None
    assert tuple(range(DEFAULT_SEEDS)) == experiment.seeds
    assert {key: getattr(experiment.grid, key) for key in experiment.grid.explicit_keys} == DEFAULT_GRID
    assert {key: tuple(values) for key, values in read_recipe("quickstart")["grid"].items()} == DEFAULT_GRID


@pytest.mark.slow
def test_a_learning_rate_that_is_left_out_is_the_same_everywhere(project, capsys, monkeypatch):
    project(net=_NET, data=_DATA)
    toml = 'name = "net"\nnetworks = ["net.py:make"]\ndata = "data.py:data"\nseeds = 5\nepochs = 10\n[grid]\nmomentum = 0.9\n'
    (project() / "mine.toml").write_text(toml)
    planned = []
    for arguments in (["mine.toml"], ["net.py:make", "--data", "data.py:data", "--grid", "momentum=0.9"]):
        _asked(*arguments, "--dry-run", "--json")
        planned.append([run["run_id"] for run in json.loads(capsys.readouterr().out)["runs"]])
    monkeypatch.setattr("bnkit.comparison.compare.run_experiment", lambda experiment, *_, **__: experiment)
    experiment = bnkit.compare("net.py:make", "data.py:data", {"momentum": 0.9})
    from bnkit.experiments.resolve_experiment import resolve_experiment

    planned.append([run.run_id for run in resolve_experiment(experiment)[0]])
    assert planned[0] == planned[1] == planned[2]
    assert len(planned[0]) == 4 * 2 * 5


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 24])  # of 81 examples the last batch has one, or nine
def test_the_command_and_the_function_give_the_same_figures(project, capsys, batch_size):
    project(net=_NET, data=_DATA)
    grid = ["--grid=lr=0.1", f"--batch-size={batch_size}"]
    _asked("net.py:make", "--data", "data.py:data", *grid, "--seeds", "2", "--epochs", "2", "--out", "command", "-q")
    function = {"grid": {"lr": 0.1, "batch_size": batch_size}, "seeds": 2, "epochs": 2}
    called = bnkit.compare("net.py:make", "data.py:data", out="function", **function)
    assert tiny_experiment.figures(called) == tiny_experiment.figures(bnkit.Comparison("command"))
    assert (project() / "command" / "results.csv").read_text().splitlines()[0] == (
        project() / "function" / "results.csv"
    ).read_text().splitlines()[0]
    from net import make

    as_object = bnkit.compare(make, tiny_experiment.data(), out="object", **function)
    other_names = [
        [{key: value for key, value in row.items() if key != "run_id"} for row in tiny_experiment.figures(comparison)]
        for comparison in (called, as_object)
    ]
    assert other_names[0] == other_names[1]


_BLOCKS = "from torch import nn\nH = 4\ndef hidden():\n    return nn.Sequential(nn.Linear(6, H), nn.BatchNorm1d(H), nn.ReLU())\n"
_IMPORTING = "import blocks\nfrom torch import nn\ndef make():\n    return nn.Sequential(blocks.hidden(), nn.Linear(blocks.H, 3))\n"
_OPTIONS = {"grid": {"lr": 0.1, "batch_size": 16}, "epochs": 1}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_changed_code_in_another_file_makes_runs_of_its_own(project, capsys, workers):
    project(net=_IMPORTING, blocks=_BLOCKS, data=_DATA)
    options = {**_OPTIONS, "workers": workers, "out": "r"}
    before = bnkit.compare("net.py:make", "data.py:data", seeds=2, **options)
    assert before.load(2)[0][0].out_features == 4
    again = bnkit.compare("net.py:make", "data.py:data", seeds=2, **options)
    assert [run.run_id for run in again.plan] == [run.run_id for run in before.plan]
    assert "other code" not in capsys.readouterr().err
    project(blocks=_BLOCKS.replace("4", "9"))
    after = bnkit.compare("net.py:make", "data.py:data", seeds=3, **options)
    result = capsys.readouterr().err
    ids = sorted(run.run_id for run in before.plan)
    assert (
        f"warning: 4 runs in r/runs were made by other code, and are not counted: {', '.join(ids)}; they are kept"
        in result
    )
    assert not {run.run_id for run in after.plan} & set(ids)
    assert [after.load(number)[0][0].out_features for number in (1, 2)] == [9, 9]
    assert {row["run_id"] for row in after.rows} == {run.run_id for run in after.plan}
    assert len(list((project() / "r" / "runs").iterdir())) == 4 + 6
    project(blocks=_BLOCKS)
    assert tiny_experiment.figures(
        bnkit.compare("net.py:make", "data.py:data", seeds=2, **options)
    ) == tiny_experiment.figures(before)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["loss", "metric", "training_step", "augmentation"])
def test_changed_code_behind_a_function_makes_runs_of_its_own(project, part):
    project(
        tools="scale = 1.0\n",
        own=(
            "import tools\nfrom torch.nn import functional\n"
            "def loss(outputs, targets):\n    return tools.scale * functional.cross_entropy(outputs, targets)\n"
            "def metric(outputs, targets):\n    return tools.scale * (outputs.argmax(1) == targets).float().mean()\n"
            "def training_step(model, optimizer, loss, inputs, targets):\n"
            "    outputs = model(inputs)\n    value = tools.scale * loss(outputs, targets)\n"
            "    optimizer.zero_grad()\n    value.backward()\n    optimizer.step()\n    return value, outputs\n"
            "def augmentation(inputs, targets):\n    return tools.scale * inputs, targets\n"
        ),
        data=_DATA,
    )
    options = {**_OPTIONS, "seeds": 1, "out": "r", part: f"own.py:{part}"}
    before = bnkit.compare({"a": tiny_experiment.plain}, "data.py:data", **options)
    project(tools="scale = 0.5\n")
    after = bnkit.compare({"a": tiny_experiment.plain}, "data.py:data", **options)
    assert before.plan.runs[0].run_id != after.plan.runs[0].run_id
    assert tiny_experiment.figures(before) != tiny_experiment.figures(after)


@pytest.mark.slow
def test_a_dropout_of_ones_own_is_trained_with_unless_the_grid_names_another(project):
    project(net=_NET, data=_DATA)
    options = {"seeds": 1, "epochs": 1}
    own = bnkit.compare("net.py:make", "data.py:data", {"lr": 0.1}, out="own", **options)
    named = bnkit.compare(
        "net.py:make", "data.py:data", {"lr": 0.1, "dropout": ["default", 0.5, 0.0]}, out="named", **options
    )
    assert [named.build(run)[3].p for run in named.plan.runs[::2]] == [0.5, 0.5, 0.0]
    assert own.build(1)[3].p == 0.5
    loss = {row["dropout"]: row["loss"] for row in named.rows if row["network"] == "batch_norm"}
    assert loss["default"] == loss[0.5] != loss[0.0]
    assert own.rows[-1]["loss"] == loss["default"]
    assert "dropout" not in own.rows[0]
    assert {run.run_id for run in own.plan} < {run.run_id for run in named.plan}
