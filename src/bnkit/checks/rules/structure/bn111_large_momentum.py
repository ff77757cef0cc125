"""BN111."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule

# Above this the last batch alone weighs more than all batches before it.
_LIMIT = 0.5


class LargeMomentum(Rule):
    """A running average that is little but the last batch: the momentum of a library that means the reverse by it."""

    code = "BN111"
    name = "large-momentum"
    severity = Severity.WARNING

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            momentum = norm.momentum
            if norm.is_frozen or norm.mean is None or momentum is None or momentum <= _LIMIT:
                continue
            meant = f" ({round(1 - momentum, 6):g} if {momentum:g} was meant as Keras has it)" if momentum < 1 else ""
            yield self.finding(
                site.name,
                f"with a momentum of {momentum:g} the running statistics are {momentum:.0%} those of the last batch",
                remedy=f"set momentum=0.1{meant}",
                measured=momentum,
                limit=_LIMIT,
            )
