"""How long one network took to where another ended. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from bnkit.report.outcomes import RunOutcome


@dataclass(frozen=True)
class TimeToTarget:
    """How long one network took to where the other ended on the test set, seed by seed.

    Attributes:
        of, by: Whose end, and who reached it.
        value: The mean of the measure to be reached.
        epochs, seconds: The median over the seeds that got there; None if none did.
        own_epochs, own_seconds: What the other one took to its last epoch (median).
        reached, seeds: In how many seeds it got there, of how many.
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
    """How long the second of each pair took to where the first ended."""
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
