"""Runs that diverged at the best learning rates, and whether they change a verdict. Needs no torch.

A run that diverged has no score, so the differences and their intervals are of the seeds for which both runs finished. That can
flatter the network that diverges more often. So the verdict only stands if it would also stand with every run that diverged counted
as the best constant answer, which is what a network without a result is worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from bnkit.intervals.interval import Conclusion
from bnkit.intervals.proportions import share_limits
from bnkit.report.objective_metric import Objective
from bnkit.report.run_outcomes import RunOutcome

# With fewer seeds, a contradicted verdict is not given up: a run that diverged by chance weighs too much.
SEEDS_TO_CONTRADICT = 12


@dataclass(frozen=True)
class Divergence:
    """How many runs diverged, and the mean difference if they count.

    Attributes:
        seeds: The number of seeds for which both runs ended.
        baseline, network: How many runs of each diverged, or finished without a finite measure.
        counts_as: What each of them counts as: the score of the best constant answer. If that is not known, 0 for an accuracy, and
            None for another measure.
        finished: The mean difference over the seeds for which both finished.
        mean: The mean difference over all seeds; None if ``counts_as`` is not known.
    """

    seeds: int
    baseline: int
    network: int
    counts_as: float | None
    finished: float
    mean: float | None

    def agrees_with(self, conclusion: Conclusion, objective: Objective, margin: float) -> bool:
        """Whether ``conclusion``, from the seeds that finished, stands if the runs that diverged count.

        The conclusion stands if it does for ``cautious_mean``.
        """
        return self.cautious_mean is None or _agrees(self.cautious_mean, conclusion, objective, margin)

    @property
    def cautious_mean(self) -> float | None:
        """The mean difference if as few runs diverge as the seeds allow; None if it is not known, or neither diverges more often.

        One network diverges more often in a share of the seeds that is only estimated. The mean is the one at the lower end of
        the 95 % interval (Wilson) of that share: one run of twenty that diverged says little, three of five say much.
        """
        share = abs(self.network - self.baseline) / self.seeds
        if self.mean is None or share == 0:
            return None
        at_least = share_limits(share, self.seeds)[0] / share
        return self.finished + at_least * (self.mean - self.finished)


def _agrees(mean: float, conclusion: Conclusion, objective: Objective, margin: float) -> bool:
    match conclusion:
        case Conclusion.GAIN:
            return objective.order(mean) < 0
        case Conclusion.LOSS:
            return objective.order(mean) > 0
        case Conclusion.NOTHING:
            return abs(mean) <= margin
        case Conclusion.UNKNOWN:
            return True


def divergence(pairs: Iterable[tuple[RunOutcome, RunOutcome]]) -> Divergence | None:
    """What diverged; None if nothing did, or if no pair finished.

    Args:
        pairs: The runs of the baseline and of the network, a pair for each seed; those that have not ended are left out.
    """
    ended = [pair for pair in pairs if all(outcome.record.is_complete for outcome in pair)]
    finished = [(a.test, b.test) for a, b in ended if a.final is not None and b.final is not None]
    lost = [sum(pair[side].final is None for pair in ended) for side in (0, 1)]
    if not finished or not any(lost):
        return None
    objective = ended[0][0].objective
    known = [constant for pair in ended for outcome in pair if (constant := outcome.constant) is not None]
    counts_as = fmean(known) if known else 0.0 if objective.is_accuracy else None
    mean = None
    if counts_as is not None:
        scores = [[counts_as if outcome.final is None else outcome.test for outcome in pair] for pair in ended]
        mean = fmean(second - first for first, second in scores)
    of_finished = fmean(second - first for first, second in finished)
    return Divergence(len(ended), lost[0], lost[1], counts_as, of_finished, mean)
