"""What a sweep gains from several workers, what the machine would let it gain, and what planning and starting cost.

    python -m benchmarks.workers --workers 2

The same runs are trained by one worker that has the machine to itself, by k workers at once, and by k plain processes side by
side, all in turns, and between them the machine is asked: convolution steps alone, and k times side by side, in processes that
know nothing of each other (`benchmarks.side_by_side`). A plain process builds its share of the networks and trains them one after
the other, and that is all: no records, no checkpoints, no pool that hands out runs.

The efficiency is the time of one worker over k times that of k workers. It is taken from the first run that begins to the last
that ends, and for the whole call. The first is a product of parts, which are printed:

- beside others a run takes longer: processors share memory, caches and clock, and two of them often one core. What the
  convolution steps lose is the machine's part of it;
- workers are not always busy: at the end one has nothing left to do (the tail), and between two runs something is written;

and the second has one more, the start: processes that load torch and the data, whatever is trained.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.folder import planned
from benchmarks.side_by_side import neighbours
from bnkit.comparison.compare import run_experiment
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import Experiment, parse_experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.experiments.running.worker_count import available_cpus

_LOAD = "convolution steps"


@dataclass(frozen=True)
class Sweep:
    """What came out of one call.

    Attributes:
        start: Seconds from the call to the first run that begins.
        window: From there to the last that ends.
        whole: Of the whole call.
        busy: Of all runs, added up.
        trained: Of all epochs, evaluation left out, added up.
        tail: From when the first worker had nothing left to do, to the last run's end.
    """

    start: float
    window: float
    whole: float
    busy: float
    trained: float
    tail: float


class Clock(Callback):
    """When runs begin and end."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    def data_ready(self, run: Run, examples: int) -> None:
        self.begun[run.number] = time.perf_counter()

    def run_ended(self, run: Run, record: Record) -> None:
        self.ended[run.number] = time.perf_counter()

    def seen(self, workers: int, trained: float) -> Sweep:
        """All that it saw, now that the call is over."""
        first, ends = min(self.begun.values()), sorted(self.ended.values())
        return Sweep(
            first - self.began, ends[-1] - first, time.perf_counter() - self.began,
            sum(self.ended[number] - self.begun[number] for number in self.ended), trained, ends[-1] - ends[-workers],
        )  # fmt: skip


def work(runs: int, epochs: int, data: str, network: str) -> Experiment:
    """What is trained."""
    content = {"name": "sweep", "data": data, "networks": [network], "grid": {"lr": [0.01]}, "epochs": epochs}
    return parse_experiment({**content, "seeds": max(1, runs // 2)}, "benchmark")


def plain_process(experiment: Experiment, number: int, count: int) -> None:
    """Train every ``count``-th run, from ``number`` on, once a line comes in; print when the first began and the last ended."""
    from bnkit.experiments.callbacks import Callback
    from bnkit.experiments.resolve_experiment import resolve_experiment
    from bnkit.experiments.training.optimizers import preload_optimizers
    from bnkit.experiments.training.training_loop import Training, train
    from bnkit.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    planned, components = resolve_experiment(experiment, threads=1)
    preload_optimizers()  # as a worker does before its first run
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began = time.perf_counter()
    for run in planned.runs[number::count]:
        source, parts = components.networks[run.network.key], components.parts(run)
        model = source.build(components.data.input_shape, components.data.out_features, run.settings, run.seed)
        for _ in train(run, Training.of(run, model, len(parts.train)), parts, components.task, None, Callback()):
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


def sweep(workers: int, experiment: Experiment) -> Sweep:
    """One call."""
    with tempfile.TemporaryDirectory() as place:
        clock = Clock()
        comparison = run_experiment(experiment, Path(place), workers=workers, observer=clock)
        return clock.seen(workers, sum(row["epoch_duration"] for row in comparison.rows))


def starts(many: Plan) -> tuple[float, float]:
    """Seconds from one run's end to the next one's beginning, around the tenth run of a plan and around the thousandth."""
    from bnkit.data import DataSet, Examples
    from bnkit.experiments.networks import network_sources
    from bnkit.experiments.records.results_folder import ResultsFolder
    from bnkit.experiments.resolve_experiment import Components
    from bnkit.experiments.running.in_process import train_all

    examples = Examples(torch.randn(16, 1, 28, 28), torch.arange(16) % 10)
    components = Components(
        network_sources(["two-cnn"], ("no_batch_norm", "batch_norm")), DataSet("made", "digest", examples, examples)
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as place:
        folder = ResultsFolder(Path(place))
        folder.begin(many.experiment, fresh=False)
        train_all(many, components, folder, clock)
    numbers = sorted(clock.ended)
    gaps = [clock.begun[after] - clock.ended[before] for before, after in itertools.pairwise(numbers)]
    return statistics.median(gaps[5:55]), statistics.median(gaps[950:1000])


def main() -> None:
    """Measure, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workers", type=int, default=available_cpus())
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
    out, found = sys.stdout, list[dict[str, float]]()
    with neighbours(count) as those:
        units = those.units(_LOAD)
        for _ in range(rounds):
            one, beside = sweep(1, experiment), [those.share(_LOAD, units, count)]
            together = sweep(count, experiment)
            beside.append(those.share(_LOAD, units, count))
            apart = plain(count, options)
            found.append({
                f"{count} workers, of {count} times one alone": one.window / together.window / count,
                "the same for the whole call": one.whole / together.whole / count,
                f"{count} plain processes, of {count} times one worker alone": one.window / apart / count,
                f"the machine: {_LOAD}, of {count} times one alone": statistics.mean(beside),
                "epochs, of their speed in one worker alone": one.trained / together.trained,
                "workers are busy": together.busy / together.window / count,
                "the one worker is busy": one.busy / one.window,
            })  # fmt: skip
            for name, this in (("1 worker ", one), (f"{count} workers", together)):
                out.write(
                    f"{name}: start {this.start:.1f} s, first run to last {this.window:.1f} s (tail {this.tail:.1f}), whole call "
                    f"{this.whole:.1f} s, epochs added up {this.trained:.1f} s\n"
                )
            out.write(f"{count} plain processes: {apart:.1f} s\n")
            out.flush()
    for name in found[0]:
        values = [one[name] for one in found]
        out.write(f"{name:52} {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})\n")


if __name__ == "__main__":
    main()
