"""What a decided answer costs: `--until decided` against the fixed grid with five seeds, in epochs trained.

python -m benchmarks.until [--out DIR] [--settings quickstart,mlp,…] [--orders 20]

Trains the grid of each setting with eight seeds (minutes; what is recorded in DIR is not trained again), and replays the rule on the
records: a rule is a function of them, so that nothing is trained twice. The first line of a setting has the seeds 0, 1, 2, … as a
user has them; the other figures are of random orders of the seeds, of which the first five are the fixed grid.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bnkit.comparison.choose_next_runs import seed_growth
from bnkit.comparison.compare import run_experiment
from bnkit.experiments.experiment import Experiment, parse_experiment, read_recipe
from bnkit.experiments.plan import plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.until_settings import StoppingRule
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.results_of_plan import Results

SEEDS, FIXED = 8, 5
_FASHION = {
    "data": "fashion-mnist", "train_examples": 6000, "epochs": 5, "drop_last": True, "threads": 1,
    "grid": {"lr": [0.03, 0.1, 0.3, 1.0], "batch_size": [64]},
}  # fmt: skip
_SMALL = {"epochs": 3, "test_examples": 2000}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "quickstart": {**read_recipe("quickstart"), "threads": 1},
    "mlp": {**_FASHION, "networks": ["mlp"]},
    "lenet": {**_FASHION, "networks": ["lenet"]},
    "two-cnn": {**_FASHION, "networks": ["two-cnn"]},
    "resnet-8": {
        **_FASHION,
        **_SMALL,
        "networks": ["resnet"],
        "grid": {**_FASHION["grid"], "depth": [8], "width": [8]},
    },
}


class _InOrder(StoppingRule):
    """The rule with the seeds in a given order."""

    order: tuple[int, ...]

    def seeds_after(self, first: tuple[int, ...]) -> tuple[int, ...]:
        return self.order


@dataclass(frozen=True)
class Cost:
    """One order of the seeds: what the fixed grid says, what the rule says, and the share of the grid's runs that it takes."""

    fixed: str
    until: str
    pairs: int
    share: float


def main() -> None:
    """Train, replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/until"))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--only-recorded", action="store_true", help="replay what is in DIR, train nothing")
    arguments = parser.parse_args()
    print(f"{'setting':12}{'seeds 0, 1, 2, …':>42}{'mean where the grid decides':>30}   grid → rule")
    for name in arguments.settings.split(","):
        folder = arguments.out / name
        if not arguments.only_recorded:
            content = {"name": name, "seeds": SEEDS, **SETTINGS[name]}
            run_experiment(parse_experiment({**content, "seeds": SEEDS}, name), folder, write_report=False)
        _print(name, costs(ResultsFolder(folder), arguments.orders))


def costs(folder: ResultsFolder, orders: int) -> list[Cost]:
    """The cost with the seeds in their order, then in random ones."""
    experiment = folder.experiment()
    records = {run.run_id: folder.record(run) for run in plan(experiment)}
    generator, seeds = random.Random(0), list(experiment.seeds)
    every = [seeds, *(generator.sample(seeds, len(seeds)) for _ in range(orders))]
    return [_cost(experiment, order, records) for order in every]


def _cost(experiment: Experiment, order: Sequence[int], records: Mapping[str, Any]) -> Cost:
    fixed = plan(experiment.model_copy(update={"seeds": tuple(order[:FIXED])}))
    (contrast,) = contrasts(Results(fixed, records))
    verdict = contrast.objective.conclude(contrast.best.test if contrast.best else None)
    rule = _InOrder(order=tuple(order), max_seeds=len(order))
    asked = plan(experiment.model_copy(update={"seeds": tuple(order[:1]), "until": rule}))
    growth = seed_growth(asked, lambda run: records[run.run_id])
    last = growth.contrasts[0].last
    share = sum(run.epochs for run in growth.runs) / sum(run.epochs for run in fixed)
    return Cost(verdict.value, "unknown" if last is None else last.verdict, 0 if last is None else last.pairs, share)


def _print(name: str, found: Sequence[Cost]) -> None:
    first, others = found[0], found[1:]
    decided = [cost.share for cost in others if cost.fixed != "unknown"]
    ways = Counter(f"{cost.fixed} → {cost.until}" for cost in others)
    told = ", ".join(f"{count} × {way}" for way, count in ways.most_common())
    own = f"{first.until} (grid: {first.fixed}), {first.pairs} pairs, {first.share:.2f}"
    mean = f"{fmean(decided):.2f} of {len(decided)}" if decided else "–"
    print(f"{name:12}{own:>42}{mean:>30}   {told}", flush=True)


if __name__ == "__main__":
    main()
