"""BN203."""

from __future__ import annotations

from collections.abc import Iterator

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule_needs import Need
from bnkit.checks.rules.statistics.recalibrate_fix import RecalibrateFix
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike


class NonFiniteRunningStats(RecalibrateFix):
    """Running statistics that hold inf or NaN, or a variance below 0, and never recover."""

    code = "BN203"
    name = "non-finite-running-stats"
    former_names = ("poisoned",)
    severity = Severity.ERROR

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            channels = _non_finite_channels(norm)
            if channels:
                yield self.finding(
                    site.name,
                    f"the running statistics of {channels} of its {norm.channels} channels hold inf, NaN or a variance below 0; "
                    "further batches cannot correct them",
                    remedy="bnkit.recalibrate(model, batches); skip_nonfinite=True in bnkit.nn's layers prevents it",
                    measured=channels,
                    limit=0,
                )
        if Need.DATA in context.has:
            yield from self._of_batches(context)

    def _of_batches(self, context: CheckContext) -> Iterator[Finding]:
        for name, inputs in context.measurements.input_statistics.items():
            bad = [
                number
                for number, moments in enumerate(inputs.batches, 1)
                if moments is not None and not bool(moments.squared_deviations.isfinite().all())
            ]
            if bad:
                yield self.finding(
                    name,
                    f"inf or NaN reached it in {len(bad)} of {len(inputs.batches)} batches, first in batch {bad[0]}: one such batch "
                    "in training poisons the running statistics",
                    remedy="look at the batch and at the layers before; skip_nonfinite=True in bnkit.nn's layers leaves it out",
                    measured=len(bad),
                    limit=0,
                )
                return  # the following layers get it from this one


def _non_finite_channels(norm: BatchNormLike) -> int:
    if norm.mean is None or norm.variance is None:
        return 0
    good = norm.mean.isfinite() & norm.variance.isfinite() & (norm.variance >= 0)
    return int((~good).sum())
