"""What a sweep gains from several workers, and what planning and starting cost.

    python -m benchmarks.workers --workers 2

Efficiency: the same runs are trained by k workers at once, by one worker that has the machine to itself, and by k plain
processes side by side: each builds its share of the networks and trains them one after the other, and that is all; no
records, no checkpoints, nobody who hands out runs. All three in turns. Two shares come out:

- of k times one worker alone: what a user gains, which the machine bounds too: processors share memory and caches, and two of
  them often one core;
- of k plain processes: what is left when the machine's part is taken out, so bnkit's own.

Taken from the first run that begins to the last that ends; the first share also for the whole call, starting processes and
writing the report included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.folder import planned

from bnkit.experiments.experiment import Experiment, experiment_from
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


def work(runs: int, epochs: int, data: str, network: str) -> Experiment:
    """What is trained."""
    content = {"name": "sweep", "data": data, "networks": [network], "grid": {"lr": [0.01]}, "epochs": epochs}
    return experiment_from({**content, "seeds": max(1, runs // 2)}, "benchmark")


def plain_process(experiment: Experiment, number: int, count: int) -> None:
    """Train every ``count``-th run, from ``number`` on, once a line comes in; print when the first began and the last ended."""
    from bnkit.experiments.observer import Observer
    from bnkit.experiments.settle import settle
    from bnkit.experiments.train import Training, train
    from bnkit.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    planned, materials = settle(experiment, threads=1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began = time.perf_counter()
    for run in planned.runs[number::count]:
        source, parts = materials.networks[run.network.key], materials.parts(run)
        model = source.build(materials.data.input_shape, materials.data.out_features, run.settings, run.seed)
        for _ in train(run, Training.of(run, model, len(parts.train)), parts, materials.task, None, Observer()):
            pass
    sys.stdout.write(json.dumps([began, time.perf_counter()]))


def plain(count: int, options: Sequence[str]) -> float:
    """Seconds from the first run to the last of ``count`` plain processes. The clock is the same in all of them (Linux)."""
    command = [sys.executable, "-m", "benchmarks.workers", *options, "--workers", str(count), "--plain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [*command, str(number)], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    moments = [json.loads(process.communicate()[0]) for process in processes]
    return max(ended for _, ended in moments) - min(began for began, _ in moments)


def sweep(workers: int, experiment: Experiment) -> tuple[float, float, float]:
    """Seconds of a whole call, those between its first run and its last, and the training alone, added up."""
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
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    experiment = work(options.runs, options.epochs, options.data, options.network)
    if options.plain is not None:
        plain_process(experiment, options.plain, options.workers)
        return
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
        efficiency(options.workers, options.rounds, experiment, [
            *("--runs", str(options.runs), "--epochs", str(options.epochs)),
            *("--data", options.data, "--network", options.network),
        ])  # fmt: skip


def efficiency(count: int, rounds: int, experiment: Experiment, options: Sequence[str]) -> None:
    """Train in turns by one worker, by ``count`` of them, and by as many plain processes; print the shares."""
    out = sys.stdout
    whole, of_one, of_plain, longer = [], [], [], []
    for _ in range(rounds):
        one, together, apart = sweep(1, experiment), sweep(count, experiment), plain(count, options)
        whole.append(one[0] / together[0] / count)
        of_one.append(one[1] / together[1] / count)
        of_plain.append(apart / together[1])
        longer.append(together[2] / one[2])
        out.write(
            f"from the first run to the last (whole call; epochs added up): 1 worker {one[1]:.1f} s ({one[0]:.1f}; {one[2]:.1f}), "
            f"{count} workers {together[1]:.1f} s ({together[0]:.1f}; {together[2]:.1f}), {count} plain {apart:.1f} s\n"
        )
        out.flush()
    out.write(f"{count} workers, of {count} times one alone:     {statistics.median(of_one):.2f}\n")
    out.write(f"the same for the whole call:          {statistics.median(whole):.2f}\n")
    out.write(f"{count} workers, of {count} plain processes:     {statistics.median(of_plain):.2f}\n")
    out.write(f"epochs take longer beside others:     {statistics.median(longer):.2f} times\n")


if __name__ == "__main__":
    main()
