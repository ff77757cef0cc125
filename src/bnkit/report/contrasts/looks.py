"""Intervals that allow for several looks, and how looks read. Needs no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

from bnkit.experiments.stopping import ContrastLooks
from bnkit.intervals.crossed import CrossedInterval
from bnkit.intervals.interval import FEWEST
from bnkit.intervals.sequential import interval_after_looks
from bnkit.report.contrasts.paired_differences import BothIntervals, PairedDifferences

_Place = TypeVar("_Place", bound=Hashable)


def every_pair(pairs: int) -> tuple[int, ...]:
    """The looks of a rule that may stop at any pair: an interval that allows for all of them holds at those that were taken."""
    return tuple(range(FEWEST, pairs + 1)) or (pairs,)


def intervals_after_looks(
    differences: Mapping[_Place, PairedDifferences], looks: Sequence[int], confidence: float
) -> dict[_Place, BothIntervals]:
    """At each place the intervals that allow for ``looks``, of which those count that had fewer pairs than there are now.

    Args:
        differences: By place.
        looks: The number of pairs at each look.
        confidence: Of all looks together.
    """
    intervals = {}
    for place, known in differences.items():
        pairs = len(known.values)
        counted = (*(n for n in looks if n < pairs), pairs)
        new = interval_after_looks(known.decisive, counted, confidence)
        intervals[place] = BothIntervals(
            interval_after_looks(known, counted, confidence), new if isinstance(new, CrossedInterval) else None
        )
    return intervals


def describe_looks(contrast: ContrastLooks) -> Iterator[str]:
    """How often one looked at a contrast, and what is left open, a sentence each."""
    last = contrast.last
    if contrast.hopeless == "runs":
        yield "More seeds would not decide it: too few pairs of runs finish."
    if last is None:
        return
    counts = [str(look.pairs) for look in contrast.looks]
    told = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"
    yield f"Looked at after {told} pairs: the interval allows for every look."
    if contrast.hopeless == "examples":
        yield "More seeds would not decide it: the test examples are too few."
    if contrast.is_open and contrast.needed is not None:
        yield f"Not decided: at this mean and spread it would take about {contrast.needed} pairs."
    elif contrast.is_open:
        yield "Not decided, and at this mean and spread no number of pairs would decide."
