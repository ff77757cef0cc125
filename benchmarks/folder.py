"""A folder of 10,000 runs: how long it takes to plan it, to list it, to see what is missing, and to report it.

    python benchmarks/folder.py --runs 10000 --epochs 10

The records are made up; files, formats and code are those of a real folder. The time is that of the user, the disk's
cache included.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bnkit.comparison.comparison_result import Comparison
from bnkit.experiments.experiment import NetworkIdentity, ResolvedExperiment, parse_experiment
from bnkit.experiments.plan import Plan, plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import Epoch, Status

T = TypeVar("T")


def planned(runs: int, epochs: int) -> Plan:
    """Two networks, five learning rates, two training sets, and as many seeds as it takes."""
    seeds = runs // (2 * 5 * 2)
    grid = {"lr": [0.01, 0.03, 0.1, 0.3, 1.0], "trainset": ["normal", "not_normal"]}
    content = {"name": "many", "networks": ["two-cnn"], "grid": grid, "seeds": seeds, "epochs": epochs}
    networks = tuple(NetworkIdentity(key=key, identity=f"two-cnn/{key}") for key in ("no_batch_norm", "batch_norm"))
    settled = ResolvedExperiment(threads=1, device="cpu", data="digest", networks=networks)
    return plan(parse_experiment(content, "benchmark").model_copy(update={"settled": settled}))


def write(many: Plan, place: Path) -> None:
    """The folder as the engine would have left it."""
    folder = ResultsFolder(place)
    folder.begin(many.experiment, fresh=False)
    for run in many:
        folder.run_folder(run).mkdir(parents=True)
        file = folder.record_file(run)
        file.start(run.content, {"torch": "2.13.0"}, 0)
        for number in range(1, run.epochs + 1):
            accuracy = 1 - 1 / (number + 1 + run.seed % 7)
            file.add(
                Epoch(number, 1 / number, accuracy, 0.5, accuracy, 0.5, accuracy, None, 1.0, 1.0, float(number), 100.0)
            )
        file.end(Status.FINISHED)


def timed(name: str, what: Callable[[], T]) -> T:
    """What ``what`` returns; its seconds are printed."""
    began = time.perf_counter()
    result = what()
    sys.stdout.write(f"{name:44}{time.perf_counter() - began:8.2f} s\n")
    sys.stdout.flush()
    return result


def main() -> None:
    """Make the folder, and do with it what a user does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        many = timed(f"plan {options.runs:,} runs", lambda: planned(options.runs, options.epochs))
        timed("(make up their records)", lambda: write(many, Path(place)))
        comparison = timed("open the folder", lambda: Comparison(place))
        timed("read every record", lambda: comparison.records)
        left = timed(
            "see what is left to train", lambda: [r for r in many if not comparison.folder.record(r).is_complete]
        )
        timed("the table of all runs", comparison.table)
        timed("the answer", lambda: str(comparison.answer))
        timed("write results.csv", lambda: comparison.folder.write_results(comparison.plan))
        page = timed("write report.html", comparison.write_report)
        sys.stdout.write(f"\n{len(left)} runs left, report.html {page.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
