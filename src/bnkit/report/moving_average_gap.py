"""Networks whose test results differ between the moving average and the statistics of the data. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import matches, outcomes, settings_of


@dataclass(frozen=True)
class PopulationGap:
    """A network whose measure on the test set depends on which statistics it is evaluated with.

    Attributes:
        network: Its key.
        lr, setting: The learning rate and the other settings.
        objective: The measure that it is judged by.
        moving_average, population: The mean measure over the finished runs, under either statistics.
        apart: The number of runs in which the two disagree.
        runs: The number of finished runs.
        widest: The pair (moving average, population) of the run in which they differ most.
    """

    network: str
    lr: float
    setting: Mapping[str, object]
    objective: Objective
    moving_average: float
    population: float
    apart: int
    runs: int
    widest: tuple[float, float]


def population_gaps(results: Results) -> tuple[PopulationGap, ...]:
    """The networks, settings and rates for which the moving average and the population statistics give different results."""
    objective = Objective.of(results.plan.task)
    finals = [(outcome.run, outcome.final) for outcome in outcomes(results) if outcome.final is not None]
    gaps = []
    for network, setting, lr in product(
        results.plan.networks, settings_of(results.plan), dict.fromkeys(results.plan.experiment.grid.lr)
    ):
        pairs = [
            (moving, population)
            for run, final in finals
            if run.network.key == network
            and run.settings.lr == lr
            and matches(run.settings, setting)
            and (moving := objective.test(final)) is not None
            and (population := objective.population(final)) is not None
        ]
        disagreeing = sum(objective.disagree(moving, population) for moving, population in pairs)
        if disagreeing:
            gaps.append(
                PopulationGap(
                    network,
                    lr,
                    setting,
                    objective,
                    fmean(moving for moving, _ in pairs),
                    fmean(population for _, population in pairs),
                    disagreeing,
                    len(pairs),
                    max(pairs, key=lambda pair: abs(pair[0] - pair[1])),
                )
            )
    return tuple(gaps)
