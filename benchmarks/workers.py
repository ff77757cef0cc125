"""What a sweep gains from several workers, and what planning and starting cost.

    python -m benchmarks.workers --workers 2

Efficiency: the same runs are trained by one worker that has the machine to itself, and by k workers at once; ideal is k times
as many runs in the same time. Taken from the first run that begins to the last that ends, and for the whole call, starting
processes and writing the report included.

Processors share memory and caches, and two of them often one core: the steps themselves, in which bnkit takes no part, then
take longer where k train at once. By how much is printed too; the efficiency without that is bnkit's own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
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
    work = options.epochs, options.data, options.network
    if options.only in (None, "efficiency"):
        count = options.workers
        whole, inner, longer = [], [], []
        for _ in range(options.rounds):
            one, together = sweep(1, options.runs, *work), sweep(count, options.runs, *work)
            whole.append(one[0] / together[0] / count)
            inner.append(one[1] / together[1] / count)
            longer.append(together[2] / one[2])
            out.write(
                f"{options.runs} runs, from first to last (whole call; steps alone): 1 worker {one[1]:.1f} s ({one[0]:.1f}; "
                f"{one[2]:.1f}), {count} workers {together[1]:.1f} s ({together[0]:.1f}; {together[2]:.1f})\n"
            )
            out.flush()
        own = [efficiency * factor for efficiency, factor in zip(inner, longer, strict=True)]
        out.write(f"efficiency of {count} workers, from first run to last: {statistics.median(inner):.2f}\n")
        out.write(f"the same for the whole call:                     {statistics.median(whole):.2f}\n")
        out.write(f"steps take longer beside others:                 {statistics.median(longer):.2f} times\n")
        out.write(f"efficiency without that:                         {statistics.median(own):.2f}\n")


if __name__ == "__main__":
    main()
