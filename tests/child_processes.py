"""Processes that tests start. None outlives its test, and no test waits for one without a limit.

``subprocess.run(..., timeout=...)`` is not enough: it kills the process, not those that this one started, and then waits until
the last of them closes the pipes. Here every process is marked in its environment, and all that have the mark are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import psutil

_MARK = "BNKIT_TEST_PROCESSES"
# It belongs to this process for as long as that lives, whichever test made multiprocessing start it.
_LEFT_ALONE = "multiprocessing.resource_tracker"
# After the first time, in case what was killed is started again.
_SECONDS_MORE = 5.0
# For what is killed to be gone.
_SECONDS_TO_DIE = 20.0


class Child:
    """A process whose output is always read, in a thread, so that it can write as much as it likes; a context manager.

    At the end it is killed, with all that it has started.

    Args:
        command: What to start.
        seconds: For each of the waits for it.
        cwd, environment: Where, and what its environment has besides ours; None for what it has not.
        stdout: Where its standard output goes; to ``out`` without.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        seconds: float = 120.0,
        cwd: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        stdout: IO[str] | None = None,
    ) -> None:
        self._seconds, self._mark = seconds, uuid.uuid4().hex
        whole = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(
            command, cwd=cwd, text=True, errors="replace",
            env=_marked({name: value for name, value in whole.items() if value is not None}, self._mark),
            stdin=subprocess.DEVNULL, stdout=stdout or subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        pipes = {"out": self.process.stdout, "err": self.process.stderr}
        self._readers = [
            threading.Thread(target=self._read, args=item, daemon=True) for item in pipes.items() if item[1]
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name, pipe) -> None:
        with pipe:
            for line in pipe:
                self._lines[name].append(line)
                if name == "err":
                    self._told.put(line)
        if name == "err":
            self._told.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        """What it has printed on standard output by now."""
        return "".join(self._lines["out"])

    @property
    def err(self) -> str:
        """The same on standard error."""
        return "".join(self._lines["err"])

    def until(self, *texts: str) -> None:
        """Wait until each of ``texts`` has begun or stood in a line on standard error that was not waited for before.

        Raises:
            AssertionError: It took too long, or no more can come.
        """
        missing, end = set(texts), time.monotonic() + self._seconds
        while missing:
            try:
                line = self._told.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not in {self._seconds:g} seconds: {missing}; it printed\n{self.err}") from None
            if line is None:
                raise AssertionError(f"it ended without {missing}; it printed\n{self.err}")
            missing -= {text for text in missing if text in line}

    def wait(self) -> int:
        """Its exit status, once it has ended and all that it printed is read.

        Raises:
            AssertionError: It took too long.
        """
        try:
            self.process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {self._seconds:g} seconds; it printed\n{self.err}") from None
        for reader in self._readers:
            reader.join(_SECONDS_TO_DIE)  # a process that it left behind may hold the pipes
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        _end(self._mark)
        self.process.wait(_SECONDS_TO_DIE)
        for reader in self._readers:
            reader.join(_SECONDS_TO_DIE)


def run(
    command: Sequence[str | Path],
    *,
    seconds: float = 120.0,
    cwd: Path | None = None,
    environment: Mapping[str, str | None] | None = None,
    stdout: IO[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run`` returns, with the output as text; arguments as of ``Child``.

    Raises:
        AssertionError: It took longer than ``seconds``.
    """
    with Child(command, seconds=seconds, cwd=cwd, environment=environment, stdout=stdout) as child:
        status = child.wait()
    return subprocess.CompletedProcess(command, status, child.out, child.err)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, whatever processes are started by this one are killed after so many seconds, and in any case at the end.

    What waits for them in this process then goes on, as it does when one dies.

    Raises:
        AssertionError: They had to be killed while it was waited for them.
    """
    mark, done, late = uuid.uuid4().hex, threading.Event(), threading.Event()
    before = os.environ.get(_MARK)

    def watch() -> None:
        patience = seconds
        while not done.wait(patience):
            late.set()
            _end(mark, forked=True)
            patience = _SECONDS_MORE

    os.environ.update(_marked(os.environ, mark))
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(_SECONDS_TO_DIE)
        _end(mark, forked=True)
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before
        assert not late.is_set(), f"the processes that it started took longer than {seconds:g} seconds, and were killed"


def _marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """With all marks that were there before: what kills the one that started us, kills ours too."""
    return {**environment, _MARK: f"{environment.get(_MARK, '')} {mark}".strip()}


def _end(mark: str, *, forked: bool = False) -> None:
    """Kill every process that has ``mark`` in its environment, and what it may have started in the meantime.

    A process that is ``forked`` has the environment that we were started with: those of multiprocessing are killed too.
    """
    for child in multiprocessing.active_children() if forked else ():
        child.kill()
    end, killed = time.monotonic() + _SECONDS_TO_DIE, set[psutil.Process]()
    while time.monotonic() < end and (
        (found := [process for process in psutil.process_iter() if _is_one(process, mark)])
        or any(map(_is_dying, killed))
    ):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        killed.update(found)
        # psutil's own wait would take the exit status from the code in this process that waits for it.
        time.sleep(0.02)


def _is_dying(process: psutil.Process) -> bool:
    """Whether a killed process still exists: multiprocessing would take its server for one that lives, and fail to reach it."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _is_one(process: psutil.Process, mark: str) -> bool:
    try:
        has_it = mark in process.environ().get(_MARK, "")
        return has_it and process.pid != os.getpid() and _LEFT_ALONE not in " ".join(process.cmdline())
    except psutil.Error:  # it has ended, or is none of ours
        return False
