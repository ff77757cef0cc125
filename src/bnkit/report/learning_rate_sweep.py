"""The runs of one network over learning rates and seeds. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bnkit.experiments.records.run_epochs_file import Status
from bnkit.report.objective_metric import Objective
from bnkit.report.run_outcomes import RunOutcome, fewest

# How a best learning rate was chosen.
ONLY_ONE = "only one"
BY_VALIDATION = "validation"


@dataclass(frozen=True)
class LearningRateSweep:
    """The runs of one network under one setting of everything else, by learning rate and seed.

    Attributes:
        name: The network's key.
        runs: The runs with their records, by learning rate and seed.
        chosen: The rate that the rule for adding seeds chose by validation; None to take the one with the best mean.
    """

    name: str
    runs: Mapping[tuple[float, int], RunOutcome]
    chosen: float | None = None

    @classmethod
    def of(cls, name: str, of_all: Sequence[RunOutcome]) -> LearningRateSweep:
        """The sweep of the network called ``name``, from its runs in ``of_all``."""
        return cls(name, {(o.run.settings.lr, o.run.seed): o for o in of_all if o.run.network.key == name})

    @property
    def objective(self) -> Objective:
        """The measure, which is the same for all runs."""
        return next(iter(self.runs.values())).objective

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates, in the order of the plan."""
        return tuple(dict.fromkeys(lr for lr, _ in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the plan."""
        return tuple(dict.fromkeys(seed for _, seed in self.runs))

    def seeds_at(self, lr: float) -> tuple[int, ...]:
        """The seeds of the runs at ``lr``; they may differ between rates if several calls trained them."""
        return tuple(seed for seed in self.seeds if (lr, seed) in self.runs)

    def finished(self, lr: float) -> dict[int, RunOutcome]:
        """The finished runs at ``lr``, by seed."""
        return {seed: self.runs[lr, seed] for seed in self.seeds_at(lr) if self.runs[lr, seed].final is not None}

    def mean(self, lr: float) -> float | None:
        """The mean measure on the test set at the end; None if no run finished."""
        ends = [outcome.test for outcome in self.finished(lr).values()]
        return fmean(ends) if ends else None

    def ended(self, lr: float) -> dict[Status, int]:
        """How many runs ended with which status."""
        ends = [self.runs[lr, seed].record.status for seed in self.seeds_at(lr)]
        return {status: ends.count(status) for status in Status if status in ends}

    def undefined(self, lr: float) -> int:
        """How many runs finished without a finite measure on the test set."""
        return sum(self.runs[lr, seed].is_undefined for seed in self.seeds_at(lr))

    def constant(self, lr: float) -> float | None:
        """The score of the best constant answer on the test set; None if it is not known."""
        known = [c for outcome in self.finished(lr).values() if (c := outcome.constant) is not None]
        return fmean(known) if known else None

    def learned(self, lr: float) -> bool | None:
        """Whether it is, on average, clearly better than the best constant answer; None where that is not known.

        By the moving average or by the population statistics: a network whose running statistics lag behind has learned.
        """
        finished, mean, constant = self.finished(lr).values(), self.mean(lr), self.constant(lr)
        if mean is None or constant is None:
            return None
        known = [self.objective.population(outcome.final) for outcome in finished if outcome.final is not None]
        population = [value for value in known if value is not None]
        means = [mean, *([fmean(population)] if population else [])]
        answers = fewest(outcome.answers for outcome in finished)
        return any(self.objective.is_clearly_better(value, constant, answers) for value in means)

    def _why_none(self) -> str:
        """Why ``name`` has no run to judge it by."""
        undefined = next((outcome for outcome in self.runs.values() if outcome.is_undefined), None)
        return f"no run of {self.name} finished" if undefined is None else f"{self.name}: {why_undefined(undefined)}"

    def best_rate(self) -> tuple[float | None, str]:
        """The rate with the best validation mean among those with the most finished runs, and how it was chosen, or why not."""
        finished = {lr: self.finished(lr).values() for lr in self.rates}
        most = max(len(runs) for runs in finished.values())
        if most == 0:
            return None, self._why_none()
        if len(self.rates) == 1:
            return self.rates[0], ONLY_ONE
        if self.chosen is not None and finished[self.chosen]:
            return self.chosen, BY_VALIDATION
        places = {}
        for lr, runs in finished.items():
            ends = [outcome.validation for outcome in runs]
            known = [end for end in ends if end is not None]
            if len(runs) == most and known:
                places[lr] = self.objective.order(fmean(known))
        if not places:
            return None, "there is no validation part to choose a learning rate on"
        return min(places, key=places.__getitem__), BY_VALIDATION


def why_undefined(outcome: RunOutcome) -> str:
    """Why the measure of a finished run is undefined."""
    objective, last = outcome.objective, outcome.record.last
    if last is not None and last.test_loss is None:
        reason = "its loss on the test set is not finite either"
    elif objective.name == "r2_score":
        reason = "R² asks how much of the targets' variance is explained, and the test targets have none; use another `metric`"
    else:
        reason = "the metric returned NaN or infinity"
    return f"its runs finished, but their test {objective.name} is undefined: {reason}"
