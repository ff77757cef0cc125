"""BN208."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.nn import batch_norm as ours


class UpdatedTwice(Rule):
    """A batch norm inside activation checkpointing: the backward pass runs it again and updates its statistics again."""

    code = "BN208"
    name = "updated-twice"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.is_frozen or norm.mean is None or isinstance(site.module, ours._BatchNorm):
                continue
            if site.name in context.example_trace.checkpointed:
                yield self.finding(
                    site.name,
                    "it runs inside activation checkpointing: the statistics are updated twice a step",
                    remedy="bnkit.convert(model), whose layers count once; or momentum = 1 - (1 - momentum) ** 0.5",
                    measured=2,
                    limit=1,
                )
