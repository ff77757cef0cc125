"""Seeds with a run that diverged, which have no effect, and what the effect would be if they count. Needs no torch.

As in a comparison (``report.contrasts.diverged_runs``), a verdict only stands if it also does with the runs that diverged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from bnkit.report.contrasts.diverged_runs import Divergence


class CountedSeed(NamedTuple):
    """The effect of a seed whose runs have all ended.

    Attributes:
        value: The effect, with every run that diverged counted.
        is_finished: Whether no run diverged.
        direction: 1 if the runs that diverged raise the effect, −1 if they lower it, 0 for neither.
    """

    value: float
    is_finished: bool
    direction: int


@dataclass(frozen=True)
class Lost:
    """A run that diverged.

    Attributes:
        weight: The sum of the signs with which its accuracies enter the effect.
        shift: By how much the effect would differ if the run had ended as the others.
    """

    weight: float
    shift: float

    @property
    def direction(self) -> int:
        """Whether its loss raises (1) or lowers (−1) the effect: the opposite of its weight; without one, by the shift."""
        return _sign(-self.weight) or _sign(self.shift)


def direction_of(lost: Iterable[Lost]) -> int:
    """The direction of the majority of ``lost``."""
    return _sign(sum(run.direction for run in lost))


def divergence_of_seeds(seeds: Iterable[CountedSeed], counts_as: float | None) -> Divergence | None:
    """What diverged, as a comparison has it; None if nothing did, or if no seed finished.

    Args:
        seeds: The seeds whose runs have all ended.
        counts_as: What a run that diverged counts as, if it is a score.
    """
    seeds = list(seeds)
    finished = [seed.value for seed in seeds if seed.is_finished]
    if not finished or len(finished) == len(seeds):
        return None
    raised, lowered = (sum(seed.direction == side for seed in seeds) for side in (1, -1))
    return Divergence(len(seeds), raised, lowered, counts_as, fmean(finished), fmean(seed.value for seed in seeds))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
