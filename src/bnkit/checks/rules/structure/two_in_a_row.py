"""BN103."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.context import Observation
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.need import Need
from bnkit.checks.rule import Rule


class TwoInARow(Rule):
    """A batch norm whose input is the output of another one: the first one's gamma and beta are cancelled by the second."""

    code = "BN103"
    name = "two-in-a-row"
    severity = Severity.WARNING
    needs = frozenset({Need.STRUCTURE})
    summary = "a batch norm right behind another one"

    def findings(self, seen: Observation) -> Iterator[Finding]:
        by_name = {place.name: norm for place, norm in seen.norms.items()}
        for place, norm in seen.norms.items():
            before = [seen.run.before(call) for call in seen.run.calls(place)]
            names = dict.fromkeys(step.module for step in before if step is not None and step.module in by_name)
            for name in names:
                first = by_name[name]
                # An activation inside the first one stands between the two.
                if first.activation is not None or norm.is_frozen:
                    continue
                parameters = first.channels * ((first.weight is not None) + (first.bias is not None))
                yield self.finding(
                    place.name,
                    f"it normalises what {name} has normalised already",
                    remedy=f"take one of them out (saves {parameters:,} parameters and a pass over the values)",
                    measured=name,
                )
