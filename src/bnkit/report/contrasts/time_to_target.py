"""How long one network took to reach another's final value. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from bnkit.report.run_outcomes import RunOutcome


@dataclass(frozen=True)
class TimeToTarget:
    """How long one network took to reach the other's final test value, seed by seed.

    Attributes:
        of, by: The network whose final value is the target, and the network that has to reach it.
        value: The mean target.
        epochs, seconds: The median over the seeds that reached it; None if no seed did.
        own_epochs, own_seconds: The median time that the first network took to its last epoch.
        reached, seeds: How many seeds reached it, out of how many.
    """

    of: str
    by: str
    value: float
    epochs: float | None
    seconds: float | None
    own_epochs: float
    own_seconds: float
    reached: int
    seeds: int


def time_to_target(of: str, by: str, pairs: list[tuple[RunOutcome, RunOutcome]]) -> TimeToTarget | None:
    """How long the second run of each pair took to reach the final value of the first."""
    if not pairs:
        return None
    hits = []
    for other, own in pairs:
        objective, target = own.objective, other.test
        hit = next((e for e in own.record.epochs if objective.better(objective.test(e), target)), None)
        if hit is not None:
            hits.append(hit)
    ends = [other.record.epochs[-1] for other, _ in pairs]
    return TimeToTarget(
        of,
        by,
        fmean(other.test for other, _ in pairs),
        median(hit.epoch for hit in hits) if hits else None,
        median(hit.run_duration for hit in hits) if hits else None,
        median(end.epoch for end in ends),
        median(end.run_duration for end in ends),
        len(hits),
        len(pairs),
    )
