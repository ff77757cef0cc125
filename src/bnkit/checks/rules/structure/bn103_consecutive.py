"""BN103."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need


class Consecutive(Rule):
    """A batch norm whose input is the output of another one: the second cancels the gamma and beta of the first."""

    code = "BN103"
    name = "consecutive"
    former_names = ("two-in-a-row",)
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        by_name = {site.name: norm for site, norm in context.norms.items()}
        for site, norm in context.norms.items():
            before = [context.example_trace.before(call) for call in context.example_trace.calls(site)]
            names = dict.fromkeys(step.module for step in before if step is not None and step.module in by_name)
            for name in names:
                first = by_name[name]
                # The first one's own activation separates the two.
                if first.activation is not None or norm.is_frozen:
                    continue
                parameters = first.channels * ((first.weight is not None) + (first.bias is not None))
                yield self.finding(
                    site.name,
                    f"it normalises the output of another batch norm, {name}",
                    remedy=f"remove one of them (saves {parameters:,} parameters and a pass over the values)",
                    measured=name,
                )
