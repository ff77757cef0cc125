"""The effect of claims that training is faster: how much sooner a test loss is reached. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bnkit.claims.claim import PLAIN, WITH, Evidence
from bnkit.claims.claim_effects import Effects, paired
from bnkit.claims.diverged_seeds import CountedSeed, divergence_of_seeds
from bnkit.experiments.records.run_epochs_file import Epoch
from bnkit.report.contrasts.diverged_runs import Divergence
from bnkit.report.run_outcomes import RunOutcome


@dataclass(frozen=True)
class SoonerAtLoss:
    """How much sooner the network with batch norm reaches the final test loss of the one without, each at its best rate.

    The logarithm of a ratio of ``figure``. A run that never reaches it counts as if it took one more epoch.
    """

    figure: Callable[[Epoch], float]

    def __call__(self, evidence: Evidence) -> Effects:
        """The effect of every seed for which both runs finished."""
        plain, with_ = self._runs(evidence)
        finished = {seed: run for seed, run in plain.items() if run.final is not None}
        return paired(finished, {seed: run for seed, run in with_.items() if run.final is not None}, self._sooner)

    def diverged(self, evidence: Evidence) -> Divergence | None:
        """What diverged: such a run never reaches the final loss of the other, and takes one epoch more; None if nothing did."""
        plain, with_ = self._runs(evidence)
        seeds = []
        for seed in plain:
            pair = [runs[seed] for runs in (plain, with_) if seed in runs and runs[seed].record.is_complete]
            if len(pair) == 2:
                lost = [outcome.final is None for outcome in pair]
                value = 0.0 if all(lost) else self._sooner(*pair)
                if value is not None:
                    seeds.append(CountedSeed(value, not any(lost), lost[0] - lost[1]))
        return divergence_of_seeds(seeds, None)

    def _runs(self, evidence: Evidence) -> tuple[dict[int, RunOutcome], dict[int, RunOutcome]]:
        return evidence.at_best(PLAIN), evidence.at_best(WITH)

    def _sooner(self, plain: RunOutcome, with_: RunOutcome) -> float | None:
        finished = plain if plain.final is not None else with_
        if finished.final is None or finished.final.test_loss is None:
            return None
        loss = finished.final.test_loss
        taken = [self._until(run, loss, finished) for run in (plain, with_)]
        return math.log(taken[0] / taken[1])

    def _until(self, outcome: RunOutcome, loss: float, finished: RunOutcome) -> float:
        """What a run takes to ``loss``; if it never gets there, an epoch more than ``finished``, if it diverged, or than it took."""
        for epoch in outcome.record.epochs if outcome.final is not None else ():
            if epoch.test_loss is not None and epoch.test_loss <= loss:
                return self.figure(epoch)
        epochs = (finished if outcome.final is None else outcome).record.epochs
        return self.figure(epochs[-1]) * (len(epochs) + 1) / len(epochs)
