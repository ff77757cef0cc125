"""BN111."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule

# Above this, the last batch weighs more than all earlier batches together.
_LIMIT = 0.5


class LargeMomentum(Rule):
    """A momentum so large that the last batch dominates the average: the convention of a library that defines it as 1 - m."""

    code = "BN111"
    name = "large-momentum"
    severity = Severity.WARNING

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            momentum = norm.momentum
            if norm.is_frozen or norm.mean is None or momentum is None or momentum <= _LIMIT:
                continue
            meant = (
                f" ({round(1 - momentum, 6):g} if {momentum:g} was meant in the convention of Keras)"
                if momentum < 1
                else ""
            )
            yield self.finding(
                site.name,
                f"with a momentum of {momentum:g}, {momentum:.0%} of the running statistics come from the last batch",
                remedy=f"set momentum=0.1{meant}",
                measured=momentum,
                limit=_LIMIT,
            )
