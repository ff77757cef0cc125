"""BN304."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.checks.rules.training.small_batches import ENOUGH, batch_size_of, cost


class Accumulation(Rule):
    """Gradients accumulated over small batches; batch norm still normalises each small batch by itself."""

    code = "BN304"
    name = "accumulation"
    severity = Severity.WARNING
    needs = frozenset({Need.LOADER})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        size, batches = batch_size_of(context.training.loader), context.training.accumulation
        trained = [site for site, norm in context.norms.items() if not norm.is_frozen]
        if batches > 1 and size is not None and size < ENOUGH and trained:
            yield self.finding(
                trained[0].name,
                f"gradients are accumulated over {batches} batches of {size}, but each is normalised by its own {size} "
                f"examples, not by {size * batches} ({cost(size)})",
                remedy="larger batches with bnkit.recompute or less memory elsewhere, group norm, or frozen batch norms",
                measured=size,
                limit=ENOUGH,
            )
