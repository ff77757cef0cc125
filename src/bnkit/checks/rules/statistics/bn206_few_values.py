"""BN206."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need
from bnkit.message_parts import plural

_ENOUGH = 16


class FewValues(Rule):
    """Batches with too few values per channel to estimate a variance."""

    code = "BN206"
    name = "few-values"
    severity = Severity.WARNING
    needs = frozenset({Need.DATA})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for name, inputs in context.measurements.input_statistics.items():
            if context.norms[inputs.site].is_frozen:
                continue
            calls = zip(inputs.batches, inputs.calls, strict=True)
            counts = [
                float(moments.count) / max(1, times)
                for moments, times in calls
                if moments is not None and moments.count
            ]
            if not counts:
                continue
            count = statistics.median(counts)  # the last batch may be shorter: see BN303
            if count < _ENOUGH:
                yield self.finding(
                    name,
                    f"a channel has {plural(round(count), 'value')} in a batch"
                    + (
                        f": its variance is off by {(2 / (count - 1)) ** 0.5:.0%} by chance"
                        if count > 1
                        else ": it has no variance, and training stops"
                    ),
                    remedy='larger batches, bnkit.convert(model, to="sync") over processes, or group norm',
                    measured=int(count),
                    limit=_ENOUGH,
                    severity=Severity.WARNING if count > 1 else Severity.ERROR,
                )
