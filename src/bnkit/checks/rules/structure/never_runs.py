"""BN107."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.context import Observation
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.need import Need
from bnkit.checks.rule import Rule


class NeverRuns(Rule):
    """A batch norm that is part of the model and takes no part in what it computes."""

    code = "BN107"
    name = "never-runs"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})
    summary = "a batch norm that never runs"

    def findings(self, seen: Observation) -> Iterator[Finding]:
        for place in seen.norms:
            if place.name in seen.run.never_ran:
                yield self.finding(
                    place.name,
                    "it did not run on the example, neither in training nor in evaluation",
                    remedy="call it in forward, or take it out",
                    measured=0,
                    limit=1,
                )
