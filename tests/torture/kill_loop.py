"""A process that has a comparison done again and again by children of its own, and kills each of them at some moment.

It is started once, since starting torch takes seconds; a child is a copy of it, made before anything was computed. Each
call goes on in the folder of the one before, until one comes through: that sweep is whole, and the next one begins.

    python -m tests.torture.kill_loop FOLDER KILLS SEED [--workers]

prints, as JSON, how many were killed, in which files that they were writing, and the figures of every sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

import bnkit
from bnkit.experiments.callbacks import Callback
from bnkit.report import page  # noqa: F401 - loaded once, before the children are made
from tests.experiments import tiny_experiment

# Of one call that is left alone, roughly: kills fall before, into and behind the training.
_MOST_SECONDS = 1.5
# Of the training alone, by workers that are ready when it begins.
_MOST_SECONDS_OF_WORKERS = 0.4
_MOST_WRITES = 40
_DONE, _RAISED = 0, 3


class Moment(Callback):
    """Kills the process after so many seconds of its training; how a call with workers loses the one that started them."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._until = seconds, float("inf")

    def plan_started(self, plan, done):
        self._until = time.monotonic() + self._seconds

    def batch_done(self, run, epoch, examples):
        if time.monotonic() > self._until:
            os.kill(os.getpid(), signal.SIGKILL)


def die_in_write(number: int, generator: random.Random, log: int) -> None:
    """From now on the ``number``-th writing of a file ends the process, with some part of what is written on disk."""
    system_write, left = os.write, number

    def write(descriptor: int, content: bytes) -> int:
        nonlocal left
        left -= 1
        if left > 0:
            return system_write(descriptor, content)
        part = generator.choice([0, 1, generator.randrange(len(content) + 1), len(content)])
        system_write(descriptor, bytes(content[:part]))
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        system_write(log, f"{name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
        return part

    os.write = write


def call(folder: Path, workers: int | None, observer: Callback | None = None) -> bnkit.Comparison:
    return bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        **tiny_experiment.EXPERIMENT,
        out=folder,
        threads=1,
        workers=workers,
        observer=observer,
    )


def child(folder: Path, workers: int | None, generator: random.Random, log: int) -> int:
    """The process id of a child that does one call, and what it was told about its end."""
    seed = generator.random()
    pid = os.fork()
    if pid:
        return pid
    try:
        mine = random.Random(seed)
        observer = None
        if workers is not None:
            observer = Moment(mine.uniform(0, _MOST_SECONDS_OF_WORKERS))
        elif mine.random() < 0.5:
            die_in_write(mine.randint(1, _MOST_WRITES), mine, log)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, mine.uniform(0.01, _MOST_SECONDS))
        call(folder, workers, observer)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(_RAISED)
    os._exit(_DONE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("kills", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(options.seed)
    reading, writing = os.pipe()
    kills, folders = 0, [options.folder / "0"]
    while kills < options.kills:
        _, status = os.waitpid(child(folders[-1], options.workers, generator, writing), 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            kills += 1
        elif os.WEXITSTATUS(status) == _DONE:
            folders.append(options.folder / str(len(folders)))
        else:
            sys.exit("a call raised an exception; its traceback stands above")
    os.close(writing)
    torn = Counter(os.fdopen(reading).read().split())
    pid = os.fork()  # as the children: nothing has been computed in this process
    if pid == 0:
        last = [tiny_experiment.figures(call(folders[-1], options.workers))]
        figures = [*(tiny_experiment.figures(bnkit.Comparison(folder)) for folder in folders[:-1]), *last]
        clean = tiny_experiment.figures(call(options.folder / "clean", None))
        sys.stdout.write(json.dumps({"kills": kills, "torn": torn, "figures": figures, "clean": clean}))
        sys.stdout.flush()
        os._exit(0)
    sys.exit(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
