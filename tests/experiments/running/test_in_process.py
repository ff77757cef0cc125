"""Nothing is lost, nothing is run twice, and an interrupted comparison has the figures of one that was not."""

from __future__ import annotations

import signal
import sys
import threading
from functools import cache
from itertools import product

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import RecordError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.experiments.training.checkpoint import _CHECKPOINT
from tests.child_processes import run
from tests.experiments import tiny_experiment


def _compare(out, networks=None, **changes):
    options = {"data": tiny_experiment.data(), **tiny_experiment.EXPERIMENT, **changes}
    return bnkit.compare(networks or tiny_experiment.NETWORKS, out=out, **options)


class _Stop(BaseException):
    """As Ctrl-C: no ``Exception``."""


class _StopAfter(Callback):
    def __init__(self, epochs=None, steps=None):
        self.epochs, self.steps, self.trained = epochs, steps, []

    def batch_done(self, run, epoch, examples):
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                raise _Stop

    def epoch_done(self, run, epoch):
        self.trained.append((run.number, epoch.epoch))
        if self.epochs is not None and len(self.trained) == self.epochs:
            raise _Stop


def _grid(schedule):
    optimizer = "sgd" if schedule == "constant" else "adam"
    return {**tiny_experiment.EXPERIMENT["grid"], "schedule": [schedule], "optimizer": [optimizer]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The figures of an uninterrupted comparison, by the schedule of its learning rate."""

    @cache
    def figures(schedule):
        return tiny_experiment.figures(_compare(tmp_path_factory.mktemp("whole"), grid=_grid(schedule)))

    return figures


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tiny_experiment.figures(_compare(tmp_path_factory.mktemp("whole")))


_IN_EVERY_PHASE = [
    ("constant", "epochs", 2),
    ("constant", "steps", 8),
    ("one-cycle", "epochs", 7),
    ("one-cycle", "steps", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "unit", "count"),
    [
        pytest.param(schedule, *stop, marks=[] if (schedule, *stop) in _IN_EVERY_PHASE else [pytest.mark.exhaustive])
        for schedule in ("constant", "one-cycle")
        for stop in (*product(["epochs"], (1, 2, 3, 7)), *product(["steps"], (0, 8, 40)))
    ],
)
def test_interrupted_anywhere_the_figures_are_bit_equal(tmp_path, whole, schedule, unit, count):
    stop, grid, expected = {unit: count}, _grid(schedule), whole(schedule)
    with pytest.raises(_Stop):
        _compare(tmp_path / "cut", grid=grid, observer=_StopAfter(**stop))
    rows = (tmp_path / "cut" / "results.csv").read_text().splitlines()
    watcher = _StopAfter()
    comparison = _compare(tmp_path / "cut", grid=grid, observer=watcher)
    assert tiny_experiment.figures(comparison) == expected
    assert len(rows) - 1 + len(watcher.trained) == 8 * 3


@pytest.mark.slow
def test_a_second_call_trains_nothing(tmp_path):
    first = _compare(tmp_path / "r")
    before = first.folder.results_file.read_text()
    watcher = _StopAfter()
    second = _compare(tmp_path / "r", observer=watcher)
    assert watcher.trained == []
    assert second.folder.results_file.read_text() == before


@pytest.mark.slow
def test_more_seeds_train_only_what_is_missing(tmp_path):
    _compare(tmp_path / "r", seeds=1)
    watcher = _StopAfter()
    comparison = _compare(tmp_path / "r", seeds=2, observer=watcher)
    assert {run for run, _ in watcher.trained} == {5, 6, 7, 8}
    assert len(comparison.rows) == 24
    fewer = _compare(tmp_path / "r", seeds=1)
    assert (len(fewer.plan), len(fewer.rows)) == (4, 24)  # those of the earlier call are kept in sight


@pytest.mark.slow
def test_fresh_trains_again_and_touches_nothing_else(tmp_path):
    _compare(tmp_path / "r", seeds=1)
    for name in ("notes.txt", "runs/notes.txt"):
        (tmp_path / "r" / name).write_text("mine")
    watcher = _StopAfter()
    _compare(tmp_path / "r", seeds=1, fresh=True, observer=watcher)
    assert len(watcher.trained) == 12
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "r" / "runs" / "notes.txt").read_text() == "mine"


_SCRIPT = """
import os, sys, torch
torch.set_num_threads(1)
import bnkit
from bnkit.experiments.callbacks import Callback
from tests.child_processes import run
from tests.experiments import tiny_experiment

class Killed(Callback):
    steps = int(sys.argv[2])
    def batch_done(self, run, epoch, examples):
        Killed.steps -= 1
        if Killed.steps == 0:
            os.kill(os.getpid(), 9)

bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), **tiny_experiment.EXPERIMENT, out=sys.argv[1], threads=1, observer=Killed())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    # An epoch has 5 steps: 3 lose the first; 20 are 4, the last of them whole but not written down; 21 are 4; 40 are 7.
    ("kills", "kept"),
    [((20,), 3), pytest.param((3, 20, 21, 40), 0 + 3 + 4 + 7, marks=pytest.mark.exhaustive)],
)
def test_kill_9_loses_at_most_the_epoch_in_progress(tmp_path, kills, kept):
    whole = _compare(tmp_path / "whole", threads=1)
    statuses = []
    for steps in kills:
        done = run([sys.executable, "-c", _SCRIPT, str(tmp_path / "cut"), str(steps)])
        statuses.append(done.returncode)
    assert statuses == [-signal.SIGKILL] * len(kills)
    watcher = _StopAfter()
    comparison = _compare(tmp_path / "cut", threads=1, observer=watcher)
    assert len(watcher.trained) == 24 - kept
    assert tiny_experiment.figures(comparison) == tiny_experiment.figures(whole)


@pytest.mark.slow
def test_a_truncated_record_is_repaired_from_the_checkpoint(tmp_path, uninterrupted):
    with pytest.raises(_Stop):
        _compare(tmp_path / "r", observer=_StopAfter(epochs=2))
    run = bnkit.Comparison(tmp_path / "r").plan.runs[0]
    record = tmp_path / "r" / "runs" / run.run_id / "record.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(lines[:-1]) + lines[-1][:20])
    watcher = _StopAfter()
    assert tiny_experiment.figures(_compare(tmp_path / "r", observer=watcher)) == uninterrupted
    assert watcher.trained[0] == (1, 3)


class _Notes(_StopAfter):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
def test_a_broken_checkpoint_is_named_and_its_run_starts_again(tmp_path, uninterrupted, content):
    with pytest.raises(_Stop):
        _compare(tmp_path / "r", observer=_StopAfter(epochs=2))
    checkpoint = next((tmp_path / "r").glob(f"runs/*/{_CHECKPOINT}"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000] if content is None else content)
    watcher = _Notes()
    assert tiny_experiment.figures(_compare(tmp_path / "r", observer=watcher)) == uninterrupted
    assert watcher.trained[0] == (1, 1)
    assert len(watcher.notes) == 1
    assert f"{checkpoint} cannot be read" in watcher.notes[0]


@pytest.mark.slow
def test_a_corrupt_record_is_quarantined_and_its_run_trained_again(tmp_path, uninterrupted):
    _compare(tmp_path / "r")
    record = min((tmp_path / "r").glob("runs/*/record.jsonl"))
    garbled = record.read_bytes().replace(b'"epoch": 2', b'"epoch": \xff')
    record.write_bytes(garbled)
    watcher = _Notes()
    assert tiny_experiment.figures(_compare(tmp_path / "r", observer=watcher)) == uninterrupted
    assert len(watcher.trained) == 3
    assert "line 3, cannot be read" in watcher.notes[0]
    assert record.with_name("record.garbled-1.jsonl").read_bytes() == garbled


class Fails(nn.Module):
    """A network whose fourth step raises."""

    def __init__(self):
        super().__init__()
        self.inner, self.steps = nn.Linear(6, 3), 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 4:
            raise RuntimeError("out of paper")
        return self.inner(x)


@pytest.mark.slow
def test_an_exception_fails_its_run_and_the_others_go_on(tmp_path):
    networks = {"bad": Fails, "no_batch_norm": tiny_experiment.plain}
    comparison = _compare(tmp_path / "r", networks, seeds=1)
    statuses = {run.number: comparison.records[run.run_id].status for run in comparison.plan}
    assert statuses == {1: Status.FAILED, 2: Status.FINISHED, 3: Status.FAILED, 4: Status.FINISHED}
    record = comparison.records[comparison.plan.runs[0].run_id]
    assert "RuntimeError: out of paper" in record.traceback
    assert [row["status"] for row in comparison.rows if row["run"] == 1] == ["failed"]
    watcher = _StopAfter()
    _compare(tmp_path / "r", networks, seeds=1, observer=watcher)
    assert watcher.trained == []  # tried again, and failed again: nothing whole came out


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_its_run_as_diverged(tmp_path):
    comparison = _compare(tmp_path / "r", grid={"lr": [0.05, 1e30]}, seeds=1, epochs=2)
    rows = [row for row in comparison.rows if row["lr"] == 1e30 and row["network"] == "no_batch_norm"]
    assert rows[-1]["status"] == "diverged"
    assert rows[-1]["loss"] == "nan"
    assert rows[-1]["test_accuracy"] is None
    watcher = _StopAfter()
    _compare(tmp_path / "r", grid={"lr": [0.05, 1e30]}, seeds=1, epochs=2, observer=watcher)
    assert watcher.trained == []


@pytest.mark.slow
def test_two_calls_on_one_folder_at_once(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    class Waits(Callback):
        def plan_started(self, plan, done):
            started.set()
            assert go_on.wait(60)

    first = threading.Thread(target=lambda: _compare(tmp_path / "r", observer=Waits()), daemon=True)
    first.start()
    try:
        assert started.wait(60)
        with pytest.raises(RecordError, match="another bnkit is writing to .*/r; wait for it, or use another `out`"):
            _compare(tmp_path / "r")
    finally:
        go_on.set()
        first.join(120)
    assert len(bnkit.Comparison(tmp_path / "r").rows) == 24


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written .*use another `out`"):
        _compare(tmp_path / "file" / "r")


@pytest.mark.slow
def test_keep_checkpoints_keeps_every_epoch(tmp_path):
    comparison = _compare(tmp_path / "r", seeds=1, keep_checkpoints=True)
    folder = comparison.folder.run_folder(comparison.plan.runs[0])
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "epoch-0001.safetensors",
        "epoch-0002.safetensors",
        "epoch-0003.safetensors",
        "record.jsonl",
        "test-scores.npz",
        "weights.safetensors",
    ]


@pytest.mark.slow
def test_the_global_generators_and_threads_are_left_alone(tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    _compare(tmp_path / "r", seeds=1, epochs=1, threads=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_the_threads_of_a_folder_stay_those_it_was_begun_with(tmp_path):
    _compare(tmp_path / "r", seeds=1, epochs=1, threads=2)
    watcher = _Notes()
    comparison = _compare(tmp_path / "r", seeds=1, epochs=1, observer=watcher)  # small networks have one by default
    assert watcher.trained == []
    assert comparison.plan.runs[0].threads == 2
    assert "was begun with 2 threads, and" in watcher.notes[0]


@pytest.mark.slow
def test_records_say_where_they_come_from(tmp_path):
    comparison = _compare(tmp_path / "r", seeds=1, epochs=1)
    environment = comparison.records[comparison.plan.runs[0].run_id].environment
    assert environment["torch"] == torch.__version__
    assert {
        "bnkit",
        "python",
        "system",
        "processor",
        "cores",
        "git_commit",
        "git_dirty",
        "threads",
        "device",
        "time",
    } <= set(environment)
