"""Several processes give the figures of one; what becomes of one of them is no matter of the others."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import BnkitError, RecordError, SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.experiments.running import pool as workers_module
from bnkit.experiments.running import worker_count
from bnkit.experiments.running.launch_request import LaunchOptions
from bnkit.experiments.running.worker_count import available_cpus, resolve_worker_count, worker_count_for
from bnkit.experiments.running.worker_loop import select_gpu
from tests.child_processes import run, time_limit
from tests.experiments import faulty_networks, tiny_experiment
from tests.experiments.faulty_networks import faulty

_ONCE = {"grid": {"lr": [0.05], "batch_size": [16]}, "seeds": 1, "epochs": 2}
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow  # each worker has to import torch


class Watcher(Callback):
    """Remembers what it was told, and who trains."""

    def __init__(self):
        self.notes, self.trained, self.at_once, self.most, self.steps = [], [], set(), 0, 0

    def data_ready(self, run, examples):
        assert examples == 72
        self.at_once.add(run.number)
        self.most = max(self.most, len(self.at_once))

    def batch_done(self, run, epoch, examples):
        self.steps += examples

    def epoch_done(self, run, epoch):
        self.trained.append((run.number, epoch.epoch))

    def run_ended(self, run, record):
        self.at_once.discard(run.number)

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(autouse=True)
def _no_worker_keeps_us_waiting():
    with time_limit(240):
        yield


def _compare(out, networks=None, **changes):
    options = {"data": tiny_experiment.data(), **tiny_experiment.EXPERIMENT, **changes}
    return bnkit.compare(networks or tiny_experiment.NETWORKS, out=out, **options)


def _statuses(comparison):
    return {run.network.key: comparison.records[run.run_id].status for run in comparison.plan}


def _children():
    """The workers that are still there: spawned by this process, or forked by its server."""
    spawned = run(["ps", "--ppid", str(os.getpid()), "-o", "args="]).stdout.splitlines()
    forked = run(["ps", "--ppid", str(_server()), "-o", "args="]).stdout.splitlines()
    return [line for line in spawned if "spawn_main" in line] + forked


def _server():
    return forkserver._forkserver._forkserver_pid


@pytest.mark.parametrize(
    "count", [2, pytest.param(1, marks=pytest.mark.torture), pytest.param(3, marks=pytest.mark.torture)]
)
def test_the_figures_do_not_depend_on_the_number_of_workers(tmp_path, count):
    watcher = Watcher()

    def plain():  # as in a notebook: no other process can import it
        return tiny_experiment.plain()

    networks = {"no_batch_norm": plain, "batch_norm": tiny_experiment.with_batch_norm}
    comparison = _compare(tmp_path / "w", networks, workers=count, observer=watcher)
    here = _compare(tmp_path / "h", networks, threads=1)
    assert tiny_experiment.figures(comparison) == tiny_experiment.figures(here)
    assert comparison.plan.runs[0].threads == 1
    assert sorted(watcher.trained) == [(run, epoch) for run in range(1, 9) for epoch in (1, 2, 3)]
    assert watcher.most <= count
    assert len(watcher.notes) == (count > available_cpus())  # that they share the processors
    assert _children() == []
    # Whatever ran in several threads before a fork hangs after it.
    assert len(list(Path(f"/proc/{_server()}/task").iterdir())) == 1
    assert comparison.load(2).training is False
    again = Watcher()
    _compare(tmp_path / "w", networks, workers=count, observer=again)
    assert again.trained == []


def test_whatever_a_network_does_to_its_process_the_others_never_notice(tmp_path):
    networks = {
        "no_batch_norm": tiny_experiment.plain,
        "dies_once": faulty(faulty_networks.dies_once, str(tmp_path / "flag")),
        "crashes": faulty(faulty_networks.crashes),
        "leaves": faulty(faulty_networks.leaves),
        "leaks": faulty(faulty_networks.leaks),
        "chatters": faulty(faulty_networks.chatters),
        "seeds": faulty(faulty_networks.seeds_everything),
        "batch_norm": tiny_experiment.with_batch_norm,
    }
    watcher = Watcher()
    comparison = _compare(tmp_path / "r", networks, workers=2, observer=watcher, **_ONCE)
    assert _statuses(comparison) == {
        "no_batch_norm": Status.FINISHED,
        "dies_once": Status.FINISHED,
        "crashes": Status.FAILED,
        "leaves": Status.FAILED,
        "leaks": Status.FAILED,
        "chatters": Status.FINISHED,
        "seeds": Status.FINISHED,
        "batch_norm": Status.FINISHED,
    }
    tracebacks = {run.network.key: comparison.records[run.run_id].traceback for run in comparison.plan}
    assert tracebacks["crashes"].endswith("its process was ended by SIGSEGV, 2 times")
    assert "in crashes" in tracebacks["crashes"]  # where it crashed, from what it printed
    assert "SystemExit: enough" in tracebacks["leaves"]
    assert "memory" in tracebacks["leaks"].splitlines()[-1]
    assert len(watcher.notes) == 2
    assert "run 2: its process was ended by SIGKILL" in "\n".join(watcher.notes)
    assert watcher.most <= 2
    left = {path.name for path in (tmp_path / "r" / "runs").glob("*/*")}
    assert left == {"record.jsonl", "test-scores.npz", "weights.safetensors"}

    quiet = {name: faulty(faulty_networks.nothing) for name in ("dies_once", "chatters")}
    calm = _compare(tmp_path / "calm", {**tiny_experiment.NETWORKS, **quiet}, threads=1, **_ONCE)

    def figures(of):
        left_out = ("run", "run_id", "epoch_duration", "run_duration", "examples_per_second")
        return {
            row["network"]: {key: value for key, value in row.items() if key not in left_out}
            for row in of.rows
            if row["network"] in {*tiny_experiment.NETWORKS, *quiet}
        }

    assert figures(comparison) == figures(calm)


@pytest.mark.torture
def test_gigabytes_that_a_network_prints_go_nowhere(tmp_path):
    networks = {"chatters": faulty(faulty_networks.chatters, 2048), "no_batch_norm": tiny_experiment.plain}
    # pytest would keep them, in one string.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        comparison = _compare(tmp_path / "r", networks, workers=1, **_ONCE)
    assert set(_statuses(comparison).values()) == {Status.FINISHED}
    assert sum(path.stat().st_size for path in (tmp_path / "r").rglob("*") if path.is_file()) < 4 << 20


def test_a_run_that_hangs_is_ended_after_its_time_and_the_next_one_runs(tmp_path, monkeypatch):
    class Late(Watcher):
        hours = 0

        def data_ready(self, run, examples):
            super().data_ready(run, examples)
            Late.hours += run.network.key == "hangs"

    class Clock:
        @staticmethod
        def monotonic():
            return 3600.0 * Late.hours

    monkeypatch.setattr(workers_module, "time", Clock)
    networks = {"hangs": faulty(faulty_networks.hangs), "no_batch_norm": tiny_experiment.plain}
    watcher = Late()
    comparison = _compare(tmp_path / "r", networks, run_timeout=100, observer=watcher, **_ONCE)
    assert _statuses(comparison) == {"hangs": Status.FAILED, "no_batch_norm": Status.FINISHED}
    assert watcher.hours == 1  # it is not tried again
    record = comparison.records[comparison.plan.runs[0].run_id]
    assert record.traceback == "it took longer than the 100 seconds of `run_timeout`"


@pytest.mark.torture
def test_a_mistake_of_the_user_shows_before_anything_is_trained(tmp_path):
    def wrong():
        return nn.Linear(5, 3)

    with pytest.raises(BnkitError, match="network wrong raised RuntimeError on inputs of shape"):
        _compare(tmp_path / "r", {"no_batch_norm": tiny_experiment.plain, "wrong": wrong}, workers=1)
    assert not (tmp_path / "r").exists()
    assert _children() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0; expected a whole number above 0, or auto"),
        ({"workers": "many"}, "workers='many'; expected a whole number above 0, or auto"),
        ({"run_timeout": 0}, "run_timeout=0; expected seconds, above 0"),
        ({"run_timeout": float("nan")}, "run_timeout=nan; expected seconds, above 0"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        _compare(tmp_path / "r", **options)


def test_what_cannot_be_pickled_is_refused(tmp_path):
    unsendable = (part for part in ())
    networks = {"no_batch_norm": tiny_experiment.plain, "other": lambda: (unsendable, tiny_experiment.plain())[1]}
    with pytest.raises(SettingsError, match="cannot be sent to another process .*leave out `workers`"):
        _compare(tmp_path / "r", networks, workers=1)


_SCRIPT = """
import os, sys, torch
sys.path.insert(0, {root!r})
import bnkit
from bnkit.experiments.callbacks import Callback
from tests.experiments import tiny_experiment

class Killed(Callback):
    left = int(sys.argv[2])
    def epoch_done(self, run, epoch):
        Killed.left -= 1
        if Killed.left == 0:
            os.kill(os.getpid(), {signal})

{guard}bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), **tiny_experiment.EXPERIMENT, out=sys.argv[1], workers=2, observer=Killed())
"""


def _script(folder, guard, signal_number=signal.SIGKILL):
    path = folder / "script.py"
    text = _SCRIPT.format(root=str(ROOT), guard=guard, signal=int(signal_number))
    path.write_text(text)
    return path


@pytest.mark.torture
def test_a_killed_call_takes_its_workers_along_and_the_next_one_goes_on(tmp_path):
    script = _script(tmp_path, 'if __name__ == "__main__": ')
    done = run([sys.executable, script, tmp_path / "r", "9"])
    assert done.returncode == -signal.SIGKILL
    watcher = Watcher()
    comparison = _compare(tmp_path / "r", workers=2, observer=watcher)
    assert tiny_experiment.figures(comparison) == tiny_experiment.figures(_compare(tmp_path / "h", threads=1))
    # Nothing that was recorded is trained again. How much more the workers record before they notice is up to them.
    assert 0 < len(watcher.trained) <= 24 - 9


@pytest.mark.torture
def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = _script(tmp_path, "")
    done = run([sys.executable, script, tmp_path / "r", "99"])
    assert done.returncode == 1
    assert "put the call under 'if __name__ == \"__main__\":'" in done.stderr
    assert "SettingsError: a worker cannot start: its process ended with exit status 1" in done.stderr


@pytest.mark.torture
def test_a_disk_that_is_full_ends_the_call_and_fails_no_run(tmp_path, monkeypatch):
    with pytest.raises(
        RecordError, match=r"cannot be written .*make room, or make the folder writable, and call again"
    ):
        _compare(
            tmp_path / "r", {"no_batch_norm": _fills_the_disk(tmp_path), "batch_norm": tiny_experiment.plain}, workers=1
        )
    (tmp_path / "room").touch()
    comparison = _compare(
        tmp_path / "r", {"no_batch_norm": _fills_the_disk(tmp_path), "batch_norm": tiny_experiment.plain}, workers=1
    )
    assert set(_statuses(comparison).values()) == {Status.FINISHED}


def _fills_the_disk(folder):
    flag = str(folder / "room")

    def deed():
        import resource

        if not os.path.exists(flag):  # noqa: PTH110
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    return faulty(deed)


@pytest.mark.parametrize(("gpus", "taken"), [(0, []), (1, [0, 0, 0, 0, 0]), (3, [0, 1, 2, 0, 1])])
def test_workers_take_the_gpus_in_turn(monkeypatch, gpus, taken):
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    for number in range(5):
        select_gpu(number)
    assert seen == taken


@pytest.mark.parametrize(
    ("asked", "devices", "count"),
    [("auto", "cuda", 3), (5, "cuda", 5), ("auto", "cpu", 4), ("auto", "cpu cuda", 4), (None, "cpu", 0)],
)
def test_auto_is_a_worker_for_each_gpu_where_all_runs_compute_on_gpus(monkeypatch, asked, devices, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(worker_count, "available_cpus", lambda: 4)

    class Runs(tuple):
        __slots__ = ()
        runs = property(tuple)

    devices = devices.split() * 100
    plan = Runs(SimpleNamespace(settings=SimpleNamespace(device=device), threads=1) for device in devices)
    watcher = Watcher()
    request = SimpleNamespace(options=LaunchOptions(asked), resolved_before=None)
    components = SimpleNamespace(costs=SimpleNamespace(seconds=lambda run: 1.0))
    assert worker_count_for(request, plan, components, watcher) == count
    assert len(watcher.notes) == (asked == 5 and devices == "cpu")


def test_auto_means_what_the_machine_has():
    assert resolve_worker_count(5, 2) == 5
    assert resolve_worker_count("auto", 1) == available_cpus()
    assert resolve_worker_count("auto", 10_000) == 1
    assert resolve_worker_count("auto", 1, gpus=8) == 8
    assert torch.get_num_threads() >= 1
