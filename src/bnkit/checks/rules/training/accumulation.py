"""BN304."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.context import Observation
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.need import Need
from bnkit.checks.rule import Rule
from bnkit.checks.rules.training.small_batches import ENOUGH, batch_size_of, told


class Accumulation(Rule):
    """Gradients that are added up over small batches, which batch norm does not add up."""

    code = "BN304"
    name = "accumulation"
    severity = Severity.WARNING
    needs = frozenset({Need.LOADER})
    summary = "gradient accumulation over small batches"

    def findings(self, seen: Observation) -> Iterator[Finding]:
        size = batch_size_of(seen.loader)
        trained = [place for place, norm in seen.norms.items() if not norm.is_frozen]
        if seen.accumulation > 1 and size is not None and size < ENOUGH and trained:
            yield self.finding(
                trained[0].name,
                f"gradients are added up over {seen.accumulation} batches of {size}, but each is normalised by its own {size} "
                f"examples, not by {size * seen.accumulation} ({told(size)})",
                remedy="larger batches with bnkit.recompute or less memory elsewhere, group norm, or frozen batch norms",
                measured=size,
                limit=ENOUGH,
            )
