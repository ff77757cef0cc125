"""The runs and records that a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.report.added_seeds import SeedGrowth


@dataclass(frozen=True)
class Results:
    """The runs of an experiment and their records.

    Attributes:
        plan: All runs.
        records: The records by ``run_id``, of the runs that began.
        own: The ids of the runs of this call, if ``plan`` also has runs of earlier calls; None if all runs are of one call.
        notes: Sentences about other runs in the folder.
        growth: The progress of the rule that adds seeds; None if the number of seeds was given.
        looks: The number of seeds at each look, this one included, if calls were repeated with more seeds.
    """

    plan: Plan
    records: Mapping[str, Record]
    own: frozenset[str] | None = None
    notes: tuple[str, ...] = ()
    growth: SeedGrowth | None = None
    looks: tuple[int, ...] = ()

    def is_own(self, run: Run) -> bool:
        """Whether ``run`` belongs to this call."""
        return self.own is None or run.run_id in self.own
