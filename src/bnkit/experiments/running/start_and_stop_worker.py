"""A worker process: starting, monitoring and ending it, and its entry point before it loads torch. Needs no torch."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.running.worker_count import may_use_gpus
from bnkit.openmp_settings import PASSIVE_WAITING

if TYPE_CHECKING:
    from bnkit.experiments.plan import Run

# The last output of a worker is kept for the record of a run in which it died.
_BYTES_KEPT = 4000
_BYTES_PER_READ = 1 << 16
_MAX_READS = 16
_server_started_by: int | None = None


def refuse_nested_workers() -> None:
    """Refuse to start workers in a worker: it imports a script whose call of ``bnkit.compare`` is not guarded.

    Raises:
        SettingsError: If this process is a worker that is starting.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SettingsError(
            "a worker process imports your script, and that calls bnkit.compare again; put the call under "
            "'if __name__ == \"__main__\":', or leave out `workers`"
        )


def start_method(experiment: Experiment) -> BaseContext:
    """How workers for ``experiment`` are started: forked from a server that has loaded torch once, or spawned.

    The server is a separate process that has not trained: a fork of this process would inherit threads that do not run, and
    locks that are never released. CUDA, and system frameworks other than Linux's, break in a fork.
    """
    is_fork = _server_started_by not in (None, os.getpid())  # the server takes no requests from it
    if sys.platform != "linux" or is_fork or may_use_gpus(experiment):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    entry = (
        ["bnkit.cli.main"] if "bnkit.cli.main" in sys.modules else []
    )  # the modules of this process that workers import
    context.set_forkserver_preload(["bnkit.experiments.running.fork_server", *entry])
    return context


def warm_up(experiment: Experiment) -> None:
    """Start the server from which workers for ``experiment`` will be forked, if they will; it ends with this process."""
    _start_server(start_method(experiment))


def _start_server(context: BaseContext) -> None:
    """Start the server of ``context`` if it needs one and has none."""
    if context.get_start_method() != "forkserver":
        return
    from multiprocessing import forkserver  # not on Windows

    global _server_started_by  # noqa: PLW0603 - multiprocessing has one server for each process
    _server_started_by = os.getpid()
    before = dict(os.environ)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's would start threads in the server when it is imported
    os.environ.setdefault(*PASSIVE_WAITING)
    try:
        with _without_interrupts():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def end_workers(workers: Iterable[WorkerProcess]) -> None:
    """Kill all of them, then wait for each."""
    workers = list(workers)
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.end()


@dataclass
class WorkerProcess:
    """A worker process, as the process that started it sees it.

    Attributes:
        number: Its number from 0, which selects its GPU.
        process: The process of ``multiprocessing``.
        pipe: The connection to ``worker.serve``.
        output: The pipe with its output, if there is one.
        run: The run that it trains now.
        busy: Whether it cannot take a run; True until it is ready.
        ready: Whether it has been ready.
        began: The time when it got ``run``, on the monotonic clock.
        deadline: The deadline of ``run``, on the monotonic clock.
        printed: The end of its output.
    """

    number: int
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    output: Connection | None
    run: Run | None = None
    busy: bool = True
    ready: bool = False
    began: float = 0.0
    deadline: float | None = None
    printed: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(cls, number: int, context: BaseContext) -> WorkerProcess:
        """Start a new process, which inherits only the environment of this one."""
        _start_server(context)
        ours, theirs = context.Pipe()
        output, printing = context.Pipe(duplex=False) if os.name == "posix" else (None, None)
        process = context.Process(  # type: ignore[attr-defined]
            target=main, args=(theirs, printing, number, dict(os.environ)), name=f"bnkit-worker-{number}"
        )
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
    def waitables(self) -> list[Any]:
        """Arguments of ``multiprocessing.connection.wait`` that become ready on any event of this worker."""
        return [self.pipe, self.process.sentinel, *([self.output] if self.output is not None else [])]

    def send(self, message: object) -> None:
        """Send ``message``; the death of the worker is handled elsewhere."""
        with suppress(OSError):
            self.pipe.send(message)

    def receive(self) -> list[Any]:
        """All messages that have arrived, except one that was cut off by its death."""
        messages = []
        try:
            while self.pipe.poll():
                messages.append(self.pipe.recv())
        except (EOFError, OSError):
            pass
        return messages

    def read_output(self) -> None:
        """Pass its output to standard error, and keep the end of it; at most a limited amount per call."""
        for _ in range(_MAX_READS):
            if self.output is None or not self.output.poll():
                return
            try:
                read = os.read(self.output.fileno(), _BYTES_PER_READ)
            except OSError:
                read = b""
            if not read:
                self.output.close()
                self.output = None
                return
            self.printed = (self.printed + read)[-_BYTES_KEPT:]
            sys.stderr.write(read.decode(errors="replace"))

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        self.process.kill()
        self.process.join()
        self.read_output()
        for pipe in (self.pipe, self.output):
            if pipe is not None:
                pipe.close()

    @property
    def exit_reason(self) -> str:
        """The reason of its end, after it has ended."""
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
    """Processes started inside ignore Ctrl-C, which goes to all processes of a terminal; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started inside, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(pool: Connection, output: Connection | None, number: int, environment: Mapping[str, str]) -> None:
    """The entry point of a worker process, which ends with the process that started it.

    Args:
        pool, number: As of ``worker.serve``.
        output: The pipe for all its output.
        environment: The environment of the process that started it; that of the server may differ.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the pool ends its workers
    _end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    if output is not None:
        _print_to(output)
    from bnkit.experiments.running.worker_loop import serve

    serve(pool, number)


def _end_with_parent() -> None:
    """End this process when its parent process ends, for any reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def exit_after_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True, name="bnkit-parent").start()


def _print_to(output: Connection) -> None:
    """Redirect all that this process prints, from C libraries and crashes too, to ``output``."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    faulthandler.enable()
