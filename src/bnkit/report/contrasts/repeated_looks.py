"""Intervals that allow for several looks, and sentences about the looks. Needs no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from bnkit.experiments.until_settings import ContrastLooks, Look
from bnkit.intervals.crossed_effects import CrossedInterval
from bnkit.intervals.interval import FEWEST, Interval
from bnkit.intervals.sequential import interval_after_looks
from bnkit.report.contrasts.paired_differences import BothIntervals, PairedDifferences

_Key = TypeVar("_Key", bound=Hashable)


def every_pair(pairs: int) -> tuple[int, ...]:
    """The looks of a rule that may stop after any pair: an interval that allows for all of these holds at the looks taken."""
    return tuple(range(FEWEST, pairs + 1)) or (pairs,)


def intervals_after_looks(
    differences: Mapping[_Key, PairedDifferences], looks: Sequence[int], confidence: float
) -> dict[_Key, BothIntervals]:
    """The intervals by key that allow for the present look and for those of ``looks`` that had fewer pairs.

    Args:
        differences: The differences by key.
        looks: The number of pairs at each look.
        confidence: The confidence of all looks together.
    """
    intervals = {}
    for key, known in differences.items():
        pairs = len(known.values)
        counted = (*(n for n in looks if n < pairs), pairs)
        these = interval_after_looks(known, counted, confidence)
        intervals[key] = BothIntervals(these, _for_new_examples(known, counted, confidence))
    return intervals


def intervals_at_look(
    differences: PairedDifferences, look: Look, looks: Sequence[int], confidence: float
) -> BothIntervals:
    """The intervals at ``look``, which led to a verdict before there were all of ``differences``.

    The one that decided is as the look has it; the one for these examples follows from the pairs that there were.
    """
    then, spread = replace(differences, values=differences.values[: look.pairs]), differences.examples
    if spread is None:
        return BothIntervals(Interval(look.mean, look.low, look.high, look.pairs))
    counted = (*(n for n in looks if n < look.pairs), look.pairs)
    recorded = min(spread.recorded, look.pairs)
    new = CrossedInterval(look.mean, look.low, look.high, look.pairs, None, spread.count, recorded)
    return BothIntervals(interval_after_looks(then, counted, confidence), new)


def _for_new_examples(
    differences: PairedDifferences, counted: Sequence[int], confidence: float
) -> CrossedInterval | None:
    """The interval for new examples, without ends for fewer than three pairs; None if it is not known."""
    spread, interval = differences.examples, interval_after_looks(differences.decisive, counted, confidence)
    if spread is None or interval is None or isinstance(interval, CrossedInterval):
        return interval if isinstance(interval, CrossedInterval) else None
    return CrossedInterval(interval.mean, None, None, interval.n, None, spread.count, spread.recorded)


def describe_looks(contrast: ContrastLooks) -> Iterator[str]:
    """Sentences about the looks at a contrast, and whether it is still open."""
    last = contrast.last
    if contrast.hopeless == "runs":
        yield "More seeds would not decide it: too few pairs of runs finish."
    if last is None:
        return
    counts = [str(look.pairs) for look in contrast.looks]
    counts_text = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"
    yield f"Looked at after {counts_text} pairs: the interval allows for every look."
    examples = "" if contrast.examples_needed is None else f"; about {contrast.examples_needed:,} would decide"
    if contrast.hopeless == "diverged":
        yield "More seeds would not decide it: runs that diverge contradict those that finish."
    if contrast.hopeless == "examples":
        yield f"More seeds would not decide it: the test examples are too few{examples}."
    if contrast.is_open and contrast.needed is not None:
        yield f"Not decided: at this mean and spread it would take about {contrast.needed} pairs."
    elif contrast.is_open and contrast.is_contradicted:
        yield "Not decided: runs that diverge contradict those that finish."
    elif contrast.is_open and examples:
        yield f"Not decided: at this mean and spread no number of pairs would decide with these test examples{examples}."
    elif contrast.is_open:
        yield "Not decided, and at this mean and spread no number of pairs would decide."
