"""How long one network took to where another ended. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from bnkit.report.outcomes import Outcome


@dataclass(frozen=True)
class Reached:
    """How long one network took to the final test accuracy of the other, seed by seed.

    Attributes:
        of, by: Whose accuracy, and who reached it.
        accuracy: The mean of the accuracies to be reached.
        epochs, seconds: The median over the seeds that got there; None if none did.
        own_epochs, own_seconds: What the other one took to its last epoch (median).
        reached, seeds: In how many seeds it got there, of how many.
    """

    of: str
    by: str
    accuracy: float
    epochs: float | None
    seconds: float | None
    own_epochs: float
    own_seconds: float
    reached: int
    seeds: int


def reached(of: str, by: str, pairs: list[tuple[Outcome, Outcome]]) -> Reached | None:
    """How long the second of each pair took to where the first ended."""
    if not pairs:
        return None
    hits = []
    for other, own in pairs:
        target = other.test_accuracy
        hit = next((e for e in own.record.epochs if e.test_accuracy is not None and e.test_accuracy >= target), None)
        if hit is not None:
            hits.append(hit)
    ends = [other.record.epochs[-1] for other, _ in pairs]
    return Reached(
        of,
        by,
        fmean(other.test_accuracy for other, _ in pairs),
        median(hit.epoch for hit in hits) if hits else None,
        median(hit.run_duration for hit in hits) if hits else None,
        median(end.epoch for end in ends),
        median(end.run_duration for end in ends),
        len(hits),
        len(pairs),
    )
