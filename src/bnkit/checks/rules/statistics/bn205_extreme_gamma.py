"""BN205."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule

# Relative to the mean of the layer's other channels, and absolute.
_NEAR_ZERO, _LARGE = 1e-3, 100.0


class ExtremeGamma(Rule):
    """A gamma that switches a channel off, or makes its output very large."""

    code = "BN205"
    name = "extreme-gamma"
    former_names = ("gamma",)
    severity = Severity.NOTE

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.weight is None or norm.weight.is_meta:
                continue
            size = norm.weight.detach().abs().double()
            if not bool(size.isfinite().all()):
                yield self._large(site.name, "not finite", float("inf"))
            elif size.max() > _LARGE:
                yield self._large(site.name, f"up to {float(size.max()):.3g}", float(size.max()))
            # If all are equal, even 0, they have their initial value.
            elif (
                size.numel() > 1 and size.max() > size.min() and (dead := int((size < _NEAR_ZERO * size.mean()).sum()))
            ):
                yield self.finding(
                    site.name,
                    f"gamma switches {dead} of its {norm.channels} channels off: it is below {_NEAR_ZERO:g} times the layer's mean",
                    remedy="weight decay on gamma does that (BN301); pruning those channels costs nothing",
                    measured=dead,
                    limit=0,
                )

    def _large(self, site: str, message: str, size: float) -> Finding:
        return self.finding(
            site,
            f"its gamma is {message}, and so is the standard deviation of the output",
            remedy="lower the learning rate of gamma, or clip gradients",
            measured=size,
            limit=_LARGE,
            severity=Severity.WARNING,
        )
