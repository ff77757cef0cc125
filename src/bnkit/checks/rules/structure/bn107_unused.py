"""BN107."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need


class Unused(Rule):
    """A batch norm that is part of the model, but is never called."""

    code = "BN107"
    name = "unused"
    former_names = ("never-runs",)
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site in context.norms:
            if site.name in context.example_trace.unused:
                yield self.finding(
                    site.name,
                    "it did not run on the example, neither in training nor in evaluation",
                    remedy="call it in forward, or remove it",
                    measured=0,
                    limit=1,
                )
