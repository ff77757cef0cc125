"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnkit.experiments.plan import Plan
from bnkit.experiments.records.record import Record


@dataclass(frozen=True)
class Results:
    """The runs of an experiment, and what was recorded of them.

    Attributes:
        plan: All runs.
        records: By ``run_id``; of runs that began.
    """

    plan: Plan
    records: Mapping[str, Record]
