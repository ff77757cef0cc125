"""A worker process, seen from the one that started it. Needs no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bnkit.errors import SettingsError
from bnkit.experiments.plan import Run
from bnkit.experiments.running.worker_process import main

# Of what a worker prints, its end is kept for the record of a run in which it died.
_BYTES_KEPT = 4000
_AT_ONCE = 1 << 16
_READS = 16


def refuse_nested_workers() -> None:
    """A SettingsError where a worker that is starting imports a script, whose call of ``bnkit.compare`` is not guarded."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SettingsError(
            "a worker process imports your script, and that calls bnkit.compare again; put the call under "
            "'if __name__ == \"__main__\":', or leave out workers"
        )


@contextmanager
def started_workers(count: int) -> Iterator[list[WorkerHandle]]:
    """So many new workers, which load torch while this process does other things. Those still in the list are ended at the end."""
    workers: list[WorkerHandle] = []
    try:
        for number in range(count):
            workers.append(WorkerHandle.start(number))  # noqa: PERF401 - what is started is known, also after Ctrl-C
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()  # all of them first, then wait for each
        for worker in workers:
            worker.end()


@dataclass
class WorkerHandle:
    """A worker process, as the one that started it knows it.

    Attributes:
        number: From 0; decides which GPU it computes on.
        process, orders, output: The process, the pipe of ``worker.serve``, and the pipe with what it prints, if there is one.
        run: What it trains now.
        busy: Whether it can take no order; it is until it is ready.
        ready: Whether it has been.
        began: When it was given ``run``, on the monotonic clock.
        deadline: When ``run`` is late, on the monotonic clock.
        printed: The end of what it has printed.
    """

    number: int
    process: multiprocessing.process.BaseProcess
    orders: Connection
    output: Connection | None
    run: Run | None = None
    busy: bool = True  # until it is ready
    ready: bool = False
    began: float = 0.0
    deadline: float | None = None
    printed: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(cls, number: int) -> WorkerHandle:
        """A new process, which is spawned: it inherits nothing that could hang in it or change a figure."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        output, printing = spawn.Pipe(duplex=False) if os.name == "posix" else (None, None)
        process = spawn.Process(target=main, args=(theirs, printing, number), name=f"bnkit-worker-{number}")
        with _without_interrupts():
            process.start()
        theirs.close()
        if printing is not None:
            printing.close()
        return cls(number, process, ours, output)

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it."""
        return self.process.exitcode is not None and self.process.exitcode < 0

    @property
    def waits_for(self) -> list[Any]:
        """What ``multiprocessing.connection.wait`` takes, to learn of anything that happens to it."""
        return [self.orders, self.process.sentinel, *([self.output] if self.output is not None else [])]

    def send(self, what: object) -> None:
        """Send it an order; if it is dead, that is seen elsewhere."""
        with suppress(OSError):
            self.orders.send(what)

    def received(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All that it has told by now; what was cut off by its death does not count."""
        received = []
        try:
            while self.orders.poll():
                received.append(self.orders.recv())
        except (EOFError, OSError):
            pass
        return received

    def read_output(self) -> None:
        """Pass on what it has printed to standard error, and keep the end of it; not all, if it never stops printing."""
        for _ in range(_READS):
            if self.output is None or not self.output.poll():
                return
            try:
                read = os.read(self.output.fileno(), _AT_ONCE)
            except OSError:
                read = b""
            if not read:
                self.output.close()
                self.output = None
                return
            self.printed = (self.printed + read)[-_BYTES_KEPT:]
            sys.stderr.write(read.decode(errors="replace"))

    def end(self) -> None:
        """Kill it, whatever it does, and wait until it is gone."""
        self.process.kill()
        self.process.join()
        self.read_output()
        for pipe in (self.orders, self.output):
            if pipe is not None:
                pipe.close()

    @property
    def exit_reason(self) -> str:
        """How it died, once it is dead."""
        code = self.process.exitcode
        if code is not None and code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            hint = "; the system ends a process so when memory is short" if -code == signal.SIGKILL else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with exit status {code}"


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Inside, processes start deaf to Ctrl-C, which goes to all processes of a terminal; ours comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
