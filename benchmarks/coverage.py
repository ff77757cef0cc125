"""How often the intervals of a difference hold the true one: on runs that were trained, and simulated.

    python -m benchmarks.coverage --out FOLDER                # 60 seeds of two settings, with and without batch norm
    python -m benchmarks.coverage --simulated > coverage.csv  # the table behind tests/intervals/test_crossed_coverage.py

The runs of each network on the whole test set are taken for all there are: the difference of their means is the true one. From
them seeds and test examples are drawn at random (with replacement, so that each draw is one of all), and both intervals are made of
those alone. The first is held against the mean of all seeds on the drawn examples, the second against the mean of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bnkit
from bnkit.data import load
from bnkit.experiments.callbacks import Callback
from bnkit.intervals.crossed_effects import example_spread, interval_for_new_examples
from bnkit.intervals.proportions import difference_interval

TRAIN_EXAMPLES = 6000
# Few epochs, to be quick: the networks are half trained, and LeNet without batch norm has not begun to learn (0.1 in every run).
# The second setting has a tenth of the training images.
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "digits": (
        "two-cnn on digits",
        "two-cnn",
        {"data": "digits", "epochs": 4, "grid": {"lr": 0.1, "batch_size": 64, "device": "cpu"}, "drop_last": True},
    ),
    "fashion-mnist": (
        "LeNet on a tenth of Fashion-MNIST",
        "lenet",
        {"data": "fashion-mnist", "epochs": 2, "grid": {"lr": 0.5, "batch_size": 64, "device": "cpu"}},
    ),
}


class _Progress(Callback):
    def run_ended(self, run: Any, record: Any) -> None:
        if run.number % 20 == 0:
            print(f"  run {run.number}: {record.status}", flush=True)


def trained_differences(folder: Path, seeds: int, network: str, settings: dict[str, Any]) -> NDArray[np.int8]:
    """(seeds, test examples): right with batch norm minus right without, of the seeds for which both runs finished."""
    data = load(settings.pop("data"))
    train = data.train.inputs[:TRAIN_EXAMPLES], data.train.targets[:TRAIN_EXAMPLES]
    comparison = bnkit.compare(
        network,
        (train, (data.test.inputs, data.test.targets)),
        out=folder,
        seeds=seeds,
        validation=0.0,
        threads=1,
        callbacks=[_Progress()],
        progress=False,
        **settings,
    )
    right: dict[str, dict[int, NDArray[Any]]] = {"no_batch_norm": {}, "batch_norm": {}}
    for run in comparison.plan:
        scores = comparison.records[run.run_id].example_scores
        if scores is not None:
            right[run.network.key][run.seed] = scores.moving_average
    seeds = right["no_batch_norm"].keys() & right["batch_norm"].keys()
    return np.stack(
        [right["batch_norm"][seed].astype(np.int8) - right["no_batch_norm"][seed] for seed in sorted(seeds)]
    )


def coverage(
    differences: NDArray[np.int8], seeds: int, examples: int, rounds: int
) -> tuple[float, float, float, float]:
    """How often each interval of ``seeds`` and examples holds the true difference, and the mean half widths."""
    generator = np.random.default_rng(0)
    of_examples, truth = differences.mean(0), differences.mean()
    found = np.zeros(4)
    for _ in range(rounds):
        columns = generator.integers(differences.shape[1], size=examples)
        drawn = differences[generator.integers(len(differences), size=seeds)][:, columns]
        values, spread = drawn.mean(1).tolist(), example_spread(drawn, single_answers=True)
        these = difference_interval(values, examples)
        assert these is not None and spread is not None
        new = interval_for_new_examples(values, spread, these, resolution=1 / examples, limits=(-1.0, 1.0))
        for place, (interval, true) in enumerate(((these, of_examples[columns].mean()), (new, truth))):
            assert interval.low is not None and interval.high is not None
            found[place] += interval.low - 1e-12 <= true <= interval.high + 1e-12
            found[2 + place] += (interval.high - interval.low) / 2
    return tuple((found / rounds).tolist())


def print_trained(out: Path, selected: Sequence[str], seeds: int, rounds: int) -> None:
    """The table of the selected settings."""
    print("| runs | seeds | test examples | for these | for new ones | half width, these | half width, new |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in selected:
        title, network, settings = SETTINGS[name]
        differences = trained_differences(out / name, seeds, network, {**settings})
        print(f"| {title}: {len(differences)} pairs, {100 * differences.mean():+.2f} points |", flush=True)
        for examples in dict.fromkeys((30, 100, min(1000, differences.shape[1]), differences.shape[1])):
            for pairs in (3, 5, 10):
                these, new, narrow, wide = coverage(differences, pairs, examples, rounds)
                widths = f"{100 * narrow:.2f} | {100 * wide:.2f}"
                print(f"| | {pairs} | {examples:,} | {these:.3f} | {new:.3f} | {widths} |", flush=True)


def print_simulated() -> None:
    """A line for each design of the exhaustive test, and of runs one in ten of which collapses."""
    from tests.intervals.crossed_designs import Design
    from tests.intervals.test_crossed_coverage import coverage as simulated
    from tests.intervals.test_crossed_coverage import grid

    print("examples,seeds,kind,first accuracy,second accuracy,rounds,these,new,width these,width new")
    collapsing = (
        ("one run in ten collapses", Design(seeds, 1000, (0.9, 0.9), collapsed=0.1), 2000) for seeds in (3, 5, 10, 20)
    )
    for kind, design, rounds in (*collapsing, *grid(1000)):
        figures = ",".join(f"{figure:.4f}" for figure in simulated(design, rounds))
        first, second = design.accuracies
        print(f"{design.examples},{design.seeds},{kind},{first:g},{second:g},{rounds},{figures}", flush=True)


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/coverage"), help="where the runs are, or will be")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--simulated", action="store_true")
    arguments = parser.parse_args()
    if arguments.simulated:
        print_simulated()
    else:
        print_trained(arguments.out, arguments.settings, arguments.seeds, arguments.rounds)


if __name__ == "__main__":
    main()
