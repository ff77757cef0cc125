"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.record import Record
from bnkit.report.added_seeds import SeedGrowth


@dataclass(frozen=True)
class Results:
    """The runs of an experiment, and what was recorded of them.

    Attributes:
        plan: All runs.
        records: By ``run_id``; of runs that began.
        own: The ids of the runs of one call, where ``plan`` has those of earlier calls too; None if all are of one.
        notes: What else is in the folder, a sentence each.
        growth: How far the rule has got by which seeds are added; None where their number was given.
        looks: How many seeds there were whenever one looked, where calls were repeated with more; now included.
    """

    plan: Plan
    records: Mapping[str, Record]
    own: frozenset[str] | None = None
    notes: tuple[str, ...] = ()
    growth: SeedGrowth | None = None
    looks: tuple[int, ...] = ()

    def is_own(self, run: Run) -> bool:
        """Whether ``run`` is of that call."""
        return self.own is None or run.run_id in self.own
