"""`bnkit compare` as its user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from bnkit.cli.main import main
from bnkit.experiments.experiment import read_experiment
from tests.child_processes import run, time_limit
from tests.cli.cli_runner import QUICK_COMPARE, TINY_EXPERIMENT, invoke, start

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_worker_keeps_us_waiting():
    with time_limit(300):
        yield


def test_it_prints_the_table_and_the_answer_and_leaves_the_files(capsys, tmp_path):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    assert result.status == 0
    order = (
        "batch_norm against no_batch_norm",
        "Test accuracy at the end, the mean over seeds",
        "All runs, best first",
    )
    assert sorted(order, key=result.out.index) == list(order)
    assert "report: r/report.html" in result.out
    for line in (
        "tiny_experiment: 4 runs, 0 done before",
        "run 1 of 4  no_batch_norm  lr 0.05  seed 0  epoch 2 of 2  loss ",
    ):
        assert line in result.err
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {
        "experiment.toml", "results.csv", "report.html", "runs",
    }  # fmt: skip


def test_a_network_without_data_is_trained_on_digits_and_the_first_line_says_so(capsys, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))\n"
    )
    options = ("--grid", "lr=0.1", "--seeds", "1", "--epochs", "1")
    result = invoke(capsys, "compare", "net.py:make", *options)
    assert result.err.splitlines()[:2] == [
        "data: digits, which come with bnkit; --data names others",
        "net: 2 runs, 0 done before",
    ]
    assert read_experiment(tmp_path / "results" / "net" / "experiment.toml")["data"] == "digits"
    for further in (["--data", "digits"], ["-q"], ["--json"]):
        assert "data: digits" not in invoke(capsys, "compare", "net.py:make", *options, *further).err


def test_results_csv_has_the_columns_and_values_that_were_promised(capsys, tmp_path):
    invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    with (tmp_path / "r" / "results.csv").open() as file:
        header, *rows = list(csv.reader(file))
    assert header == [
        "run", "run_id", "network", "seed", "lr", "batch_size", "epoch", "loss", "accuracy", "test_loss",
        "test_accuracy", "test_accuracy_population", "epoch_duration", "run_duration", "examples_per_second", "status",
    ]  # fmt: skip
    assert len(rows) == 8
    for row in (dict(zip(header, values, strict=True)) for values in rows):
        assert row["status"] == "finished"
        assert 0 <= float(row["accuracy"]) <= 1
        has_population = row["network"] == "batch_norm" and row["epoch"] == "2"
        assert (row["test_accuracy_population"] != "") == has_population
        assert float(row["run_duration"]) >= float(row["epoch_duration"]) > 0


def test_the_report_is_opened_where_that_is_asked_for(capsys, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("bnkit.cli.compare.launch", opened.append)
    monkeypatch.setattr("bnkit.cli.report.launch", opened.append)
    assert invoke(capsys, "compare", *QUICK_COMPARE, "--out", "one").status == 0
    assert opened == []
    assert invoke(capsys, "compare", *QUICK_COMPARE, "--out", "one", "--open").status == 0
    report = tmp_path / "one" / "report.html"
    assert opened == [report.as_uri()]
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert invoke(capsys, "report", "one", "--open").status == 0
    assert opened == [report.as_uri()] * 2


def test_the_best_runs_are_shown_and_all_where_that_is_asked_for(capsys):
    more = [argument.replace("lr=0.05", "lr=0.05,0.1") for argument in QUICK_COMPARE]
    result = invoke(capsys, "compare", *more, "--out", "r")
    assert "The best runs\n" in result.out and "\n… 3 more: --all shows them\n" in result.out
    shown = invoke(capsys, "report", "r")
    assert shown.out == result.out
    everything = invoke(capsys, "report", "r", "--all").out
    assert "more: --all" not in everything
    rows = everything.split("All runs, best first\n")[1].split("\n\n")[0].splitlines()
    assert sorted(int(row.split()[0]) for row in rows[1:]) == list(range(1, 9))
    assert invoke(capsys, "compare", *more, "--out", "r", "--all").out == everything


def test_json_goes_to_standard_output_alone(capsys):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "--json")
    content = json.loads(result.out)
    assert result.err == ""
    assert (content["name"], content["folder"], len(content["results"])) == ("tiny_experiment", "r", 8)
    assert content["answer"]["contrasts"][0]["network"] == "batch_norm"


def test_quiet_prints_the_answer_alone(capsys):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "-q")
    assert result.err == ""
    assert result.out.startswith("batch_norm against no_batch_norm")
    assert "All runs" not in result.out


def test_verbose_has_a_line_for_every_epoch(capsys):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "-v")
    assert sum("epoch 1 of 2" in line for line in result.err.splitlines()) == 4


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "--dry-run")
    assert result.status == 0
    assert "4 runs of 2 epochs, 8 in all, into r" in result.out
    assert not (tmp_path / "r").exists()
    plan = json.loads(invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "--dry-run", "--json").out)
    assert [(run["run"], run["network"], run["seed"]) for run in plan["runs"]] == [
        (1, "no_batch_norm", 0), (2, "batch_norm", 0), (3, "no_batch_norm", 1), (4, "batch_norm", 1),
    ]  # fmt: skip


def test_a_dry_run_of_many_runs_shows_the_first_and_the_last_and_json_all(capsys):
    rates = ",".join(str(number / 1000) for number in range(1, 102))
    arguments = ("compare", "--grid", f"lr={rates}", "--seeds", "1", "--dry-run")
    lines = invoke(capsys, *arguments).out.splitlines()
    numbers = [line.split()[0] for line in lines if line.split()]
    assert numbers == ["run", *map(str, range(1, 41)), "…", *map(str, range(193, 203)), "152", "202"]
    assert "152 runs are left out here; --json prints all" in lines
    runs = json.loads(invoke(capsys, *arguments, "--json").out)["runs"]
    assert [run["run"] for run in runs] == [*range(1, 203)]
    assert lines[40].split()[1] == runs[39]["run_id"]


def test_a_second_call_trains_nothing_and_says_the_same(capsys):
    first = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    second = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    assert second.out == first.out
    assert "4 runs, 4 done before" in second.err


def test_several_grid_keys_after_one_option(capsys):
    result = invoke(
        capsys, "compare", "--dry-run", "--json", "--grid", "lr=0.1,1", "trainset=not_normal", "--seeds", "1"
    )
    runs = json.loads(result.out)["runs"]
    assert {(run["settings"]["lr"], run["settings"]["trainset"]) for run in runs} == {
        (0.1, "not_normal"),
        (1.0, "not_normal"),
    }


def test_options_change_a_recipe(capsys):
    arguments = ("--network", "lenet", "--batch-size", "32", "--device", "cpu", "--seeds", "1", "--epochs", "3")
    runs = json.loads(invoke(capsys, "compare", "quickstart", *arguments, "--dry-run", "--json").out)["runs"]
    assert {(run["settings"]["batch_size"], run["settings"]["device"], run["epochs"]) for run in runs} == {
        (32, "cpu", 3)
    }


def test_an_experiment_file_of_ones_own(capsys, tmp_path):
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\nnetworks = ["{TINY_EXPERIMENT}:networks"]\ndata = "{TINY_EXPERIMENT}:data"\nseeds = [7]\nepochs = 1\n[grid]\nlr = 0.1\n'
    )
    content = json.loads(invoke(capsys, "compare", "mine.toml", "--json").out)
    assert content["folder"] == "results/mine"
    assert {row["seed"] for row in content["results"]} == {7}


_FACTORIES = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.steps = 0
    def forward(self, x):
        self.steps += self.training
        if self.steps > 3:
            raise RuntimeError("the fourth step")
        return self.fc(x)

def fails_later():
    return {"no_batch_norm": lambda: nn.Linear(6, 3), "batch_norm": Broken}

def raises():
    raise OSError("no such weights")

def wrong_shape():
    return {"a": lambda: nn.Linear(6, 2)}

def wrong_inputs():
    return {"a": lambda: nn.Linear(5, 3)}

def no_module():
    return {"a": lambda: 3}

ONE = nn.Linear(6, 3)

def the_same_one():
    return {"a": lambda: ONE}

def an_instance():
    return {"a": nn.Linear(6, 3)}

def data_of_one_tensor():
    return torch.zeros(3)

def data_of_lists():
    return ([[1.0]], [0]), ([[1.0]], [0])

def of_arguments(channels, height):
    return nn.Linear(channels, height)

def module():
    return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))

not_callable = 3
"""


def test_a_run_that_fails_leaves_the_others_alone(capsys, tmp_path):
    (tmp_path / "nets.py").write_text(_FACTORIES)
    result = invoke(capsys, "compare", "nets.py:fails_later", *QUICK_COMPARE[1:], "--out", "r")
    assert result.status == 1
    assert "2 runs failed; the traceback of the first is in r/runs/" in result.err
    assert "batch_norm: 2 of 2 runs failed" in result.out
    statuses = [row["status"] for row in csv.DictReader(io.StringIO((tmp_path / "r" / "results.csv").read_text()))]
    assert (statuses.count("failed"), statuses.count("finished")) == (2, 4)
    place = result.err.split(" is in ")[1].strip()
    assert "the fourth step" in (tmp_path / place).read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compare", "nothing"], ["no recipe is called 'nothing'", "quickstart"]),
        (["compare", "quickstrat"], ["no recipe is called 'quickstrat'; expected", "did you mean 'quickstart'?"]),
        (
            ["compare", "--grid", "momentun=0.9"],
            ["error: --grid momentun: unknown key; expected", "did you mean 'momentum'?"],
        ),
        (
            ["compare", "--grid", "optimizer=Adm"],
            ["error: --grid optimizer: expected", "got 'Adm'; did you mean 'adam'?"],
        ),
        (["compare", "absent.toml"], ["absent.toml cannot be read", "TOML"]),
        (["compare", "broken.toml"], ["broken.toml is not TOML"]),
        (["compare", "unknown-key.toml"], ["epoch: unknown key", "epochs"]),
        (["compare", "wrong-type.toml"], ["error: wrong-type.toml: epochs: expected a whole number, got 'ten'"]),
        (["compare", "empty-grid.toml"], ["the grid is empty", "lr"]),
        (["compare", "--grid", "speed=1"], ["error: --grid speed: unknown key", "lr"]),
        (["compare", "--grid", "lr=fast"], ["error: --grid lr: expected a number, got 'fast'"]),
        (["compare", "--grid", "lr=-1"], ["error: --grid lr: expected a number greater than 0, got -1"]),
        (["compare", "--grid", "lr="], ["--grid lr=", "KEY=V1,V2"]),
        (["compare", "--grid", "lr"], ["--grid lr:", "KEY=V1,V2"]),
        (["compare", "--grid", "lr=1", "batch_size=8", "lr=2"], ["gives lr twice", "--grid lr=V1,V2"]),
        (
            ["compare", "--grid", "batch_size=8", "--batch-size", "9"],
            ["--batch-size 9 and --grid batch_size", "one of them"],
        ),
        (["compare", "--grid", "device=cpu", "--device", "cpu"], ["--device cpu and --grid device", "one of them"]),
        (["compare", "--network", "resnet-9000"], ["unknown network 'resnet-9000'", "two-cnn"]),
        (["compare", "--data", "imagenet"], ["unknown data set 'imagenet'", "digits"]),
        (["compare", "--seeds", "0"], ["at least 1 seed"]),
        (
            ["compare", "--seeds", "99999999999"],
            ["error: --seeds: expected at least 1 seed, at most 1,000,000, got 99999999999"],
        ),
        (
            ["compare", "--grid", "lr=0.1", "0.2"],
            ["0.2 is not a recipe; expected the values of a key of --grid together"],
        ),
        (["compare", "--dry-run", "--log", "tb"], ["unknown logger 'tb'; expected one of tensorboard"]),
        (["compare", "--epochs", "0"], ["error: --epochs: expected a number greater than or equal to 1"]),
        (["compare", "--batch-size", "2000"], ["batch_size=2000 is larger than the 1294", "at most 1294"]),
        (["compare", "--device", "tpu"], ["error: --device: expected auto, cpu, cuda, or a GPU as cuda:0, got 'tpu'"]),
        (["compare", "--seeds", "many"], ["error: --seeds: expected a whole number, got 'many'"]),
        (["compare", "--sed", "3"], ["--sed", "see bnkit compare --help"]),
        (
            ["compare", "--network", "nets.py"],
            ["nets.py is a file: name a function in it, as nets.py:Broken or nets.py:"],
        ),
        (
            ["compare", "nets.py"],
            ["no recipe is called 'nets.py'", "nets.py is a file: name a function in it, as nets.py:"],
        ),
        (["compare", "."], ["no recipe is called '.'", "; . is a folder"]),
        (
            ["compare", "nets.py:of_arguments"],
            ["requires the arguments channels, height", "return of_arguments(channels=…, height=…)"],
        ),
        (["compare", "https://example.org/net.py:net"], ["that is an address: download the file"]),
        (["check", "nets.py"], ["nets.py is a file: name a function in it"]),
        (
            ["check", "nets.py:of_arguments"],
            ["requires the arguments channels, height; expected a factory that needs none"],
        ),
        (["check", "nets.py:module", "--weights", "."], [". is a folder; expected a file of weights on this machine"]),
        (["check", "nets.py:module", "--weights", "https://example.org/w.pt"], ["is an address; expected a file"]),
        (
            ["check", "nets.py:module", "--weights", "nets.py"],
            ["nets.py cannot be read (it is not a PyTorch file, or is damaged)"],
        ),
        (
            ["check", "nets.py:module", "--fail-on", "warn"],
            ["--fail-on: expected one of", "got 'warn'; did you mean 'warning'?"],
        ),
        (["check", "nets.py:module", "--select", "BN999"], ["error: --select: no rule is called 'BN999'"]),
        (
            ["check", "nets.py:module", "--per-layer-ignores", "a:BN999"],
            ["error: --per-layer-ignores: no rule is called"],
        ),
        (["compare", "--dry-run", "--out", "a-file"], ["a-file cannot be written: it is a file"]),
        (["fold", "nets.py:module", "--input", "2x6", "--out", "x"], ["x has no ending; expected .safetensors"]),
        (["compare", "nets.py:absent"], ["nets.py", "absent"]),
        (["compare", "gone.py:networks"], ["gone.py"]),
        (["compare", "syntax.py:networks"], ["syntax.py", "SyntaxError"]),
        (["compare", "nets.py:not_callable"], ["is a int (3)", "a dictionary of factories"]),
        (["compare", "nets.py:raises"], ["raised OSError: no such weights"]),
        (["compare", "nets.py:no_module", "--data", f"{TINY_EXPERIMENT}:data"], ["returned int", "nn.Module"]),
        (["compare", "nets.py:an_instance", "--data", f"{TINY_EXPERIMENT}:data"], ["exists already", "factory"]),
        (["compare", "nets.py:the_same_one", "--data", f"{TINY_EXPERIMENT}:data"], ["the same network twice"]),
        (["compare", "nets.py:wrong_shape", *QUICK_COMPARE[1:]], ["returned shape (2, 2)", "(2, 3)"]),
        (
            ["compare", "nets.py:wrong_inputs", *QUICK_COMPARE[1:]],
            ["raised RuntimeError on inputs of shape (2, 6)", "; expected a network for the inputs of"],
        ),
        (
            ["compare", *QUICK_COMPARE[:1], "--data", "nets.py:raises"],
            ["raised OSError: no such weights", "(train, test)"],
        ),
        (["compare", *QUICK_COMPARE[:1], "--data", "nets.py:data_of_one_tensor"], ["is a Tensor", "(train, test)"]),
        (["compare", *QUICK_COMPARE[:1], "--data", "nets.py:data_of_lists"], ["holds a list", "tensors"]),
        (["compare", *QUICK_COMPARE, "--out", "a-file"], ["a-file cannot be written", "--out"]),
        (["compare", *QUICK_COMPARE, "--out", "a-file/below"], ["cannot be written"]),
        (["report", "."], ["holds no experiment.toml"]),
        (["report"], ["DIR"]),
        (["data", "imagenet"], ["unknown data set 'imagenet'"]),
        (["train"], ["No such command 'train'"]),
    ],
    ids=lambda value: " ".join(value[1:3])[-40:] if isinstance(value, list) and value[0] != "nets.py" else None,
)
def test_a_mistake_is_one_line_that_says_what_to_do(capsys, tmp_path, arguments, expected):
    experiment = 'name = "m"\nnetworks = ["two-cnn"]\nseeds = 1\n'
    for name, content in {
        "nets.py": _FACTORIES,
        "syntax.py": "def networks(:\n",
        "a-file": "",
        "broken.toml": "name = \n",
        "unknown-key.toml": experiment + "epoch = 3\nepochs = 3\n[grid]\nlr = 0.1\n",
        "wrong-type.toml": experiment + 'epochs = "ten"\n[grid]\nlr = 0.1\n',
        "empty-grid.toml": experiment + "epochs = 1\n[grid]\n",
    }.items():
        (tmp_path / name).write_text(content)
    result = invoke(capsys, *arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for fragment in expected:
        assert fragment in result.err
    assert not (tmp_path / "results").exists()


def test_debug_shows_the_traceback_of_a_mistake(capsys):
    result = invoke(capsys, "compare", "nothing", "--debug")
    assert result.status == 2
    assert "Traceback (most recent call last)" in result.err
    assert "no recipe is called" in result.err.splitlines()[-1]


def test_a_mistake_loses_nothing_that_was_recorded(capsys, tmp_path):
    invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    for right, wrong in (
        ("lr=0.05", "lr=fast"),
        ("batch_size=16", "batch_size=1000"),
        (f"{TINY_EXPERIMENT}:data", "imagenet"),
    ):
        result = invoke(
            capsys, "compare", *(wrong if one == right else one for one in QUICK_COMPARE), "--out", "r", "--fresh"
        )
        assert result.status == 2
        assert wrong.rpartition("=")[2] in result.err
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_a_broken_data_file_is_named_and_not_used(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BNKIT_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b half of it")
    result = invoke(capsys, "compare", "--data", "mnist")
    assert result.status == 2
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte.gz") in result.err
    assert result.err.count("\n") == 1


def test_ctrl_c_keeps_what_is_whole_and_the_next_call_goes_on(capsys, tmp_path):
    long = (*QUICK_COMPARE[:-1], "2000", "--out", "r", "-v", "--workers", "1")
    with start("compare", *long, cwd=tmp_path) as process:
        process.until("epoch 3 of 2000")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 130
    assert "stopped; completed runs are in r, and the same command resumes from there" in process.err
    assert "Traceback" not in process.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r" / "results.csv").read_text())))
    assert len(rows) >= 3
    assert {row["status"] for row in rows} == {"running"}
    assert len(list((tmp_path / "r" / "runs").iterdir())) == 1
    result = invoke(capsys, "report", "r")
    assert "4 runs of the plan have not ended" in result.out


def test_the_server_that_workers_are_forked_from_ignores_ctrl_c_from_its_start(tmp_path):
    """While it loads torch, Ctrl-C in a terminal would print a traceback of it."""
    program = (
        "import multiprocessing, pathlib, signal\nfrom multiprocessing import forkserver\n"
        "from bnkit.experiments.running import start_and_stop_worker as workers\n"
        "workers._start_server(multiprocessing.get_context('forkserver'))\n"
        "status = pathlib.Path(f'/proc/{forkserver._forkserver._forkserver_pid}/status').read_text()\n"
        "blocked = next(line.split()[1] for line in status.splitlines() if line.startswith('SigBlk'))\n"
        "print(int(blocked, 16) >> (signal.SIGINT - 1) & 1, signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    done = run([sys.executable, "-c", program], cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("1 set()", "")


@pytest.mark.parametrize(
    ("function", "command"),
    [
        ("comparison.compare.run_experiment", ("compare", *QUICK_COMPARE)),
        ("claims.evaluate_claims.evaluate_claims", ("claims",)),
    ],
    ids=["compare", "claims"],
)
def test_ctrl_c_before_the_first_run_says_so(capsys, monkeypatch, tmp_path, function, command):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"bnkit.{function}", interrupted)
    done = invoke(capsys, *command, "--out", str(tmp_path / "r"))
    assert (done.status, done.out, done.err) == (
        130,
        "",
        "stopped before the first run; the same command starts again\n",
    )


def test_ctrl_c_with_workers_ends_all_of_them(capsys, tmp_path):
    with start("compare", *QUICK_COMPARE[:-1], "2000", "--out", "r", "-v", "--workers", "2", cwd=tmp_path) as process:
        process.until("run 1 of 4", "run 2 of 4")
        server = next(p for p in psutil.Process(process.pid).children() if "forkserver" in " ".join(p.cmdline()))
        workers = [worker.pid for worker in server.children()]
        assert len(workers) == 2
        for pid in (process.pid, *workers):  # as a terminal does
            os.kill(pid, signal.SIGINT)
        assert process.wait() == 130
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert "stopped; completed runs are in r, and the same command resumes from there" in process.err
    assert "Traceback" not in process.err
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r" / "results.csv").read_text())))
    assert {row["run"] for row in rows} == {"1", "2"}


@pytest.mark.torture
def test_the_plan_of_workers_is_the_plan_that_is_printed(capsys, tmp_path):
    printed = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "--workers", "2", "--dry-run", "--json")
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "--workers", "2", "--json")
    planned = [run["run_id"] for run in json.loads(printed.out)["runs"]]
    assert list(dict.fromkeys(row["run_id"] for row in json.loads(result.out)["results"])) == planned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "-1"), "--workers -1; expected a whole number above 0, or auto"),
        (("--engine", "slurm"), "--engine slurm; expected local or ray"),
        (("--run-timeout", "0"), "--run-timeout 0.0; expected seconds, above 0"),
    ],
    ids=str,
)
def test_invalid_worker_counts_are_refused(capsys, tmp_path, options, message):
    result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", *options)
    assert result.status == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.exhaustive  # as test_sequential has it in one process
def test_the_same_folder_twice_at_once_is_refused(capsys, tmp_path):
    with start("compare", *QUICK_COMPARE[:-1], "2000", "--out", "r", "-v", cwd=tmp_path) as process:
        process.until("epoch 1 of 2000")
        result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    assert result.status == 2
    assert "another bnkit is writing to r" in result.err


@pytest.mark.parametrize("option", ["--out", "--data", "--network", "--grid"])
@pytest.mark.parametrize("joined", [True, False])
def test_an_option_without_a_value_is_named(capsys, tmp_path, option, joined):
    result = invoke(capsys, "compare", *QUICK_COMPARE, *([f"{option}="] if joined else [option, ""]))
    assert (result.status, result.out) == (2, "")
    assert result.err == f"error: {option} is empty; expected a value, or leave it out\n"
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder_wherever_it_stands(capsys, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "tiny_experiment.py").write_text(Path(TINY_EXPERIMENT).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    result = invoke(
        capsys,
        "compare",
        "~/tiny_experiment.py:networks",
        "--data=~/tiny_experiment.py:data",
        *QUICK_COMPARE[3:],
        "--out=~/r",
        "-q",
    )
    assert result.status == 0
    assert (home / "r" / "report.html").exists()
    (home / "mine.toml").write_text((home / "r" / "experiment.toml").read_text().replace(str(home), "~"))
    for command in (("report", "~/r", "--json"), ("compare", "~/mine.toml", "--out", "~/r", "--json")):
        content = json.loads(invoke(capsys, *command).out)
        assert content["report"] == str(home / "r" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_loss_that_is_not_finite_is_null(capsys):
    huge = [word.replace("lr=0.05", "lr=0.05,1e30") for word in QUICK_COMPARE]
    result = invoke(capsys, "compare", *huge, "--out", "r", "--json")
    content = json.loads(result.out, parse_constant=pytest.fail)
    diverged = [row for row in content["results"] if row["status"] == "diverged"]
    assert diverged
    assert {row["loss"] for row in diverged if row["test_loss"] is None} == {None}
    assert '"nan"' not in result.out
    assert ",nan," in Path("r/results.csv").read_text()  # as it always was


def test_a_folder_that_bnkit_did_not_write_is_left_alone(capsys, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "results.csv").write_text("my,own,table\n")
    for options in ((), ("--fresh",), ("--workers", "1")):
        result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", *options)
        assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
        assert result.err.startswith(
            "error: r holds results.csv, which was not written by bnkit and would be replaced; "
        )
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["results.csv"]
    assert (tmp_path / "r" / "results.csv").read_text() == "my,own,table\n"


def test_a_page_about_several_folders_replaces_no_other_file(capsys, tmp_path):
    for name in ("a", "b"):
        invoke(capsys, "compare", *QUICK_COMPARE, "--out", name, "-q")
    (tmp_path / "report.html").write_text("mine")
    result = invoke(capsys, "report", "a", "b")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "report.html is there and is not a report of bnkit's" in result.err
    assert (tmp_path / "report.html").read_text() == "mine"
    for _ in range(2):
        assert invoke(capsys, "report", "a", "b", "--out", "both.html").status == 0


@pytest.mark.exhaustive  # as test_output_streams has it, of other commands
def test_a_reader_who_leaves_ends_it_without_a_traceback(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)  # no process reads any more
    with os.fdopen(writing, "w") as pipe:
        done = run([sys.executable, "-m", "bnkit.cli.main", "data"], cwd=tmp_path, stdout=pipe)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr


def test_main_takes_its_arguments_from_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bnkit", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("bnkit 0.")


def test_a_recipe_about_one_layer_prints_its_tables(capsys, tmp_path):
    result = invoke(capsys, "compare", "train-and-predict")
    assert result.status == 0
    assert "10 of 10 rows are equal" in result.out
    (sheet,) = json.loads(invoke(capsys, "compare", "train-and-predict", "--json").out)
    assert len(sheet["rows"]) == 10
    refused = invoke(capsys, "compare", "train-and-predict", "--seeds", "3")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "expected only the options --json and -q" in refused.err
    assert list(tmp_path.iterdir()) == []
