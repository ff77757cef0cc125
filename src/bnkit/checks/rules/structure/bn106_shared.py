"""BN106."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need


class Shared(Rule):
    """A batch norm that runs several times a step: one running average for inputs from several places."""

    code = "BN106"
    name = "shared"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            calls = len(context.example_trace.calls(site))
            if calls > 1 and not norm.is_frozen and norm.mean is not None:
                also = f" (also called {', '.join(site.names[1:])})" if len(site.names) > 1 else ""
                yield self.finding(
                    site.name,
                    f"it runs {calls} times a step{also}: training uses the statistics of each input, evaluation one average of "
                    "all",
                    remedy="use a separate batch norm in each place; other layers may stay shared",
                    measured=calls,
                    limit=1,
                )
