"""What a sweep gains from several workers, and what planning and starting cost.

    python -m benchmarks.workers --workers 2

Efficiency: the same runs, trained by one worker that has the machine to itself, and by k workers at once, in turns. Ideal
is k times as many runs in the same time. The time of a sweep is taken twice: from the call to its end (starting processes
and writing the report included), and from the first run that begins to the last that ends. What two processes that only
multiply small matrices lose to each other on this machine is printed beside it: no sweep can do better.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from benchmarks.folder import planned

from bnkit.experiments.experiment import experiment_from
from bnkit.experiments.observer import Observer
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.processors import processors
from bnkit.experiments.records import Record
from bnkit.report.compare import run_experiment


class Clock(Observer):
    """When runs begin and end."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []

    def data_ready(self, run: Run, examples: int) -> None:
        self.begun.append(time.perf_counter())

    def run_ended(self, run: Run, record: Record) -> None:
        self.ended.append(time.perf_counter())


def sweep(workers: int, runs: int, epochs: int, data: str, network: str) -> tuple[float, float, float]:
    """Seconds of a whole call, those between its first run and its last, and the training alone, added up."""
    content = {"name": "sweep", "data": data, "networks": [network], "grid": {"lr": [0.01]}, "epochs": epochs}
    experiment = experiment_from({**content, "seeds": max(1, runs // 2)}, "benchmark")
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        comparison = run_experiment(experiment, Path(place), workers=workers, observer=clock)
        whole = time.perf_counter() - began
        trained = sum(row["epoch_duration"] for row in comparison.rows)
    return whole, max(clock.ended) - min(clock.begun), trained


def multiply(seconds: float, turn: Connection) -> None:
    """Count how many products of small matrices one thread makes in so many seconds."""
    torch.set_num_threads(1)
    left, right, count = torch.randn(128, 128), torch.randn(128, 128), 0
    turn.recv()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(20):
            left @ right
        count += 20
    turn.send(count)


def pure(processes: int, seconds: float) -> int:
    """Products that so many processes make at once, in all."""
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(processes):
        ours, theirs = spawn.Pipe()
        spawn.Process(target=multiply, args=(seconds, theirs), daemon=True).start()
        pipes.append(ours)
    time.sleep(5)  # until all of them have started
    for pipe in pipes:
        pipe.send(None)
    return sum(pipe.recv() for pipe in pipes)


def starts(many: Plan) -> tuple[float, float]:
    """Seconds from one run's end to the next one's beginning, around the tenth run of a plan and around the thousandth."""
    from bnkit.data import DataSet, Examples
    from bnkit.experiments.engine import train_all
    from bnkit.experiments.folder import Folder
    from bnkit.experiments.networks import sources
    from bnkit.experiments.settle import Materials

    examples = Examples(torch.randn(16, 1, 28, 28), torch.arange(16) % 10)
    materials = Materials(
        sources(["two-cnn"], ("no_batch_norm", "batch_norm")), DataSet("made", "digest", examples, examples)
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place))
        folder.begin(many.experiment, fresh=False)
        train_all(many, materials, folder, clock)
    gaps = [begun - ended for ended, begun in zip(clock.ended, clock.begun[1:], strict=False)]
    return statistics.median(gaps[5:55]), statistics.median(gaps[950:1000])


def main() -> None:
    """Measure, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workers", type=int, default=processors())
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--network", default="two-cnn")
    parser.add_argument("--only", choices=["planning", "starting", "efficiency"])
    options = parser.parse_args()
    out = sys.stdout
    if options.only in (None, "planning"):
        seconds = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            many = planned(10_000, 10)
            ids = {run.run_id for run in many}
            seconds.append(time.perf_counter() - began)
            assert len(ids) == 10_000
        out.write(f"planning 10,000 runs, hashes included: {statistics.median(seconds):.2f} s\n")
    if options.only in (None, "starting"):
        early, late = starts(planned(1_020, 1))
        out.write(
            f"from a run's end to the next: {early * 1e3:.1f} ms at the 10th, {late * 1e3:.1f} ms at the 1000th\n"
        )
    if options.only in (None, "efficiency"):
        count = options.workers
        wholes, inner = [], []
        for _ in range(options.rounds):
            alone = sweep(1, options.runs, options.epochs, options.data, options.network)
            together = sweep(count, options.runs, options.epochs, options.data, options.network)
            wholes.append(alone[0] / together[0] / count)
            inner.append(alone[1] / together[1] / count)
            out.write(
                f"{options.runs} runs: 1 worker {alone[0]:.1f} s ({alone[1]:.1f} from first to last run), {count} workers "
                f"{together[0]:.1f} s ({together[1]:.1f}); training alone {alone[2]:.1f} and {together[2]:.1f} s\n"
            )
            out.flush()
        bound = [pure(count, 3) / pure(1, 3) / count for _ in range(options.rounds)]
        out.write(f"efficiency of {count} workers, first to last run: {statistics.median(inner):.2f}\n")
        out.write(f"efficiency of {count} workers, the whole call:   {statistics.median(wholes):.2f}\n")
        out.write(f"products of small matrices, nothing shared:     {statistics.median(bound):.2f}\n")


if __name__ == "__main__":
    main()
