"""BN110."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule


class StrippedBySync(Rule):
    """A batch norm with an activation inside, which PyTorch's conversion to synchronised batch norms would drop."""

    code = "BN110"
    name = "stripped-by-sync-conversion"
    severity = Severity.NOTE

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.activation is None or not isinstance(site.module, _BatchNorm):
                continue
            name = norm.activation if isinstance(norm.activation, str) else type(norm.activation).__name__
            yield self.finding(
                site.name,
                f"torch.nn.SyncBatchNorm.convert_sync_batchnorm would silently drop its {name}",
                remedy='bnkit.convert(model, to="sync") keeps it',
                measured=name,
            )
