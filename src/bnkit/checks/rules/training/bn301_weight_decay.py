"""BN301."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.message_parts import plural


class WeightDecay(Rule):
    """An optimizer that applies weight decay to gamma and beta."""

    code = "BN301"
    name = "weight-decay"
    severity = Severity.NOTE
    needs = frozenset({Need.OPTIMIZER})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        assert context.training.optimizer is not None
        decays = {
            id(parameter): float(group.get("weight_decay") or 0.0)
            for group in context.training.optimizer.param_groups
            for parameter in group["params"]
        }
        decayed: dict[str, float] = {}
        named = ""
        for site, norm in context.norms.items():
            own = {"gamma": norm.weight, "beta": norm.bias}
            of_site = {name: decays.get(id(p), 0.0) for name, p in own.items() if p is not None and p.requires_grad}
            if any(value > 0 for value in of_site.values()):
                decayed[site.name] = max(of_site.values())
                named = named or " and ".join(name for name, value in of_site.items() if value > 0)
        if decayed:
            first, *others = decayed
            more = f", and those of {plural(len(others), 'more batch norm')}" if others else ""
            yield self.finding(
                first,
                f"its {named} {'are' if ' and ' in named else 'is'} under weight decay ({max(decayed.values()):g}){more}",
                remedy="put them into a separate parameter group with weight_decay=0",
                measured=max(decayed.values()),
                limit=0.0,
            )
