"""Whatever happens to a comparison, the next call finishes the plan, with the figures of one to which nothing happened."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

import bnkit
from bnkit.errors import RecordError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.records import atomic_files, environment
from tests.child_processes import run, time_limit
from tests.experiments import tiny_experiment

ROOT = Path(__file__).parents[2]
RUNS, EPOCHS = 8, 3
whole_only = pytest.mark.torture


class Count(Callback):
    def __init__(self, stop_after=None):
        self.trained, self.notes, self._left = Counter(), [], stop_after

    def epoch_done(self, run, epoch):
        self.trained[run.number, epoch.epoch] += 1
        if self._left is not None and self.trained.total() == self._left:
            raise KeyboardInterrupt

    def note(self, message):
        self.notes.append(message)


def compare(folder, observer=None, **options):
    return bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        **tiny_experiment.EXPERIMENT,
        out=folder,
        threads=1,
        observer=observer,
        **options,
    )


@pytest.fixture(autouse=True)
def _no_worker_keeps_us_waiting(request):
    with time_limit(570 if "kills" in request.fixturenames else 240):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tiny_experiment.figures(compare(tmp_path_factory.mktemp("undisturbed")))


def _interrupted(folder, after):
    with pytest.raises(KeyboardInterrupt):
        compare(folder, Count(after))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "more"),
    [
        pytest.param(3, (), id="3"),
        pytest.param(6, (), id="6", marks=whole_only),
        *(pytest.param(50, (), id=f"50, {part}", marks=whole_only) for part in range(1, 5)),
        *(pytest.param(6, ("--workers", "2"), id=f"6 with workers, {part}", marks=whole_only) for part in (5, 6)),
    ],
)
def test_killed_again_and_again(tmp_path, undisturbed, request, kills, more):
    """At any moment, and inside the writing of any file: a line, a checkpoint, the table, the report."""
    seed = request.node.callspec.id.rpartition(" ")[2]
    command = [sys.executable, "-m", "tests.torture.kill_loop", tmp_path, str(kills), seed, *more]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run(command, seconds=540, cwd=ROOT, environment={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    sys.stdout.write(f"{report['kills']} kills, {len(report['figures'])} sweeps, in the middle of {report['torn']}\n")
    assert report["kills"] == kills
    assert json.loads(json.dumps(undisturbed)) == report["clean"]
    for figures in report["figures"]:
        assert figures == report["clean"]


class Disk:
    """The system's ``write``, until so many bytes are written; then the disk is full, in the middle of a write."""

    def __init__(self, room):
        self._room, self._write = room, os.write

    def __call__(self, descriptor, content):
        if self._room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, bytes(content[: self._room]))
        self._room -= written
        return written


@pytest.mark.slow
@pytest.mark.parametrize(
    "room", [1500, 9000, *(pytest.param(room, marks=whole_only) for room in (0, 400, 5000, 40_000))], ids=str
)
def test_a_full_disk_is_told_in_one_line_and_fails_no_run(tmp_path, undisturbed, monkeypatch, room):
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "os", _os_with(write=Disk(room)))
        with pytest.raises(
            RecordError, match=r"cannot be written \(No space left on device\); what is recorded is kept"
        ):
            compare(tmp_path / "r")
    watcher = Count()
    comparison = compare(tmp_path / "r", watcher)
    assert tiny_experiment.figures(comparison) == undisturbed
    assert watcher.notes == []
    assert set(watcher.trained.values()) <= {1}


def _os_with(**changed):
    """The module ``os``, but for these functions."""

    class Changed:
        def __getattr__(self, name):
            return changed.get(name) or getattr(os, name)

    return Changed()


_DISK = 8 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 8 MB (a report takes one), and a way to make it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK >> 20}m", "bnkit", folder]
    if run(mount).returncode != 0:
        pytest.skip("this process may not mount a file system: the full disk of the ordinary tests is a made-up one")
    yield folder
    assert run(["umount", folder]).returncode == 0


@whole_only
@pytest.mark.parametrize("left", [0, 2_000, 10_000, 20_000, 60_000, 500_000])
@pytest.mark.parametrize("workers", [None, 1])
def test_a_real_disk_that_is_full(small_disk, undisturbed, left, workers):
    ballast = small_disk / "ballast"
    with pytest.raises(RecordError, match="cannot be written .*No space left on device"):
        ballast.write_bytes(bytes(_DISK - 20 * 4096 - left))
        (small_disk / "r").mkdir()
        _fill(small_disk / "rest", left)
        compare(small_disk / "r", workers=workers)
    ballast.unlink()
    assert tiny_experiment.figures(compare(small_disk / "r", workers=workers)) == undisturbed


def _fill(path, left):
    """Write to the file system until only so many bytes are free."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - left))


@whole_only
def test_a_real_disk_that_becomes_read_only(small_disk, undisturbed):
    _interrupted(small_disk / "r", 5)
    assert run(["mount", "-o", "remount,ro", small_disk]).returncode == 0
    with pytest.raises(RecordError, match="cannot be written .*Read-only file system"):
        compare(small_disk / "r")
    assert run(["mount", "-o", "remount,rw", small_disk]).returncode == 0
    watcher = Count()
    assert tiny_experiment.figures(compare(small_disk / "r", watcher)) == undisturbed
    assert watcher.trained.total() == RUNS * EPOCHS - 5


@pytest.mark.slow
def test_a_folder_that_becomes_read_only(tmp_path, undisturbed, monkeypatch):
    _interrupted(tmp_path / "r", 5)

    def refuse(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "os", _os_with(open=refuse))
        with pytest.raises(RecordError, match=r"cannot be written \(Read-only file system\)"):
            compare(tmp_path / "r")
    watcher = Count()
    assert tiny_experiment.figures(compare(tmp_path / "r", watcher)) == undisturbed
    assert watcher.trained.total() == RUNS * EPOCHS - 5


@pytest.mark.slow
def test_a_clock_that_jumps(tmp_path, undisturbed, monkeypatch):
    generator = random.Random(0)

    def jumping(*_):
        return generator.choice([0.0, 1e9, 4e9]) + generator.random()

    class Calendar:
        @staticmethod
        def now(zone):
            return datetime.fromtimestamp(jumping(), UTC)

    monkeypatch.setattr("time.time", jumping)
    monkeypatch.setattr(environment, "datetime", Calendar)
    _interrupted(tmp_path / "r", 5)
    comparison = compare(tmp_path / "r")
    assert tiny_experiment.figures(comparison) == undisturbed
    assert all(0 <= row["epoch_duration"] < 60 for row in comparison.rows)


class PowerCut:
    """The system's calls, and what a disk would hold if the power went now: what was forced to it, under names that were."""

    def __init__(self):
        self._paths, self._contents, self._names = {}, {}, {}

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, *how):
        descriptor = os.open(path, *how)
        self._paths[descriptor] = Path(path)
        return descriptor

    def fsync(self, descriptor):
        path = self._paths[descriptor]
        if path.is_dir():
            self._names[path] = {one.name: one.stat().st_ino for one in path.iterdir()}
        else:
            self._contents[path.stat().st_ino] = path.read_bytes()

    def restore(self, place, into):
        """Make ``into`` what ``place`` would be after the cut."""
        into.mkdir()
        for name, number in self._names.get(place, {}).items():
            inner = place / name
            if inner.is_dir() and inner.stat().st_ino == number:
                self.restore(inner, into / name)
            else:
                (into / name).write_bytes(self._contents.get(number, b""))


@pytest.mark.slow
@pytest.mark.parametrize("after", [5, *(pytest.param(after, marks=whole_only) for after in (1, 3, 12, 24))])
def test_the_power_fails_and_no_whole_epoch_is_lost(tmp_path, undisturbed, monkeypatch, after):
    cut = PowerCut()
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "os", cut)
        _interrupted(tmp_path / "r", after)
    cut.restore(tmp_path / "r", tmp_path / "s")
    watcher = Count()
    assert tiny_experiment.figures(compare(tmp_path / "s", watcher)) == undisturbed
    assert watcher.notes == []
    assert watcher.trained.total() == RUNS * EPOCHS - after


def _truncated(content, generator):
    return content[: generator.randrange(len(content))]


def _flipped(content, generator):
    place = generator.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << generator.randrange(8))]) + content[place + 1 :]


def _overwritten(content, generator):
    start = generator.randrange(len(content))
    junk = generator.randbytes(generator.randint(1, 64))
    return content[:start] + junk + content[start + len(junk) :]


def _emptied(content, generator):
    return b""


def _zeroed(content, generator):
    return bytes(len(content))


FILES = {
    "record": "runs/*/record.jsonl",
    "checkpoint": "runs/*/checkpoint.pt",
    "table": "results.csv",
    "settings": "experiment.toml",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=whole_only) for seed in range(1, 12))])
@pytest.mark.parametrize("damage", [_truncated, _flipped, _overwritten, _emptied, _zeroed])
def test_damage_to_a_file_changes_no_figure(tmp_path, undisturbed, damage, seed):
    generator = random.Random(f"{seed} {damage.__name__}")
    _interrupted(tmp_path / "r", 5)
    for pattern in FILES.values() if seed else list(FILES.values())[:2]:
        path = generator.choice(sorted((tmp_path / "r").glob(pattern)))
        path.write_bytes(damage(path.read_bytes(), generator))
    assert tiny_experiment.figures(compare(tmp_path / "r")) == undisturbed
