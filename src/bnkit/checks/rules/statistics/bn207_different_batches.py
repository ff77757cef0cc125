"""BN207."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.checks.rule_needs import Need

# The share of the variance between examples that lies between batches, and the significance level.
_SHARE, _P_VALUE = 0.05, 1e-6


class DifferentBatches(Rule):
    """Batches that differ from each other more than by chance: sorted data, or several sources."""

    code = "BN207"
    name = "different-batches"
    severity = Severity.WARNING
    needs = frozenset({Need.DATA})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for name, inputs in context.measurements.input_statistics.items():
            variation = analyse_variance(inputs.means)
            if variation is not None and variation.share > _SHARE and variation.p_value < _P_VALUE:
                yield self.finding(
                    name,
                    f"the batches come from different distributions: {variation.share:.0%} of the variance between examples lies "
                    "between batches",
                    remedy="shuffle the data; with several sources, use separate statistics",
                    measured=variation.share,
                    limit=_SHARE,
                )


@dataclass(frozen=True)
class BatchVariation:
    """The result of an analysis of variance between batches.

    Attributes:
        share: The part of the variance between examples that lies between batches, ω², over all channels.
        ratio: F of the channel that differs most.
        freedom: Its degrees of freedom, between and within.
        channels: How many channels there are.
    """

    share: float
    ratio: float
    freedom: tuple[int, int]
    channels: int

    @property
    def p_value(self) -> float:
        """The probability of a ratio this large if the batches are mixed, times the number of channels."""
        from scipy.special import fdtrc  # slow to load, and rarely needed

        return float(fdtrc(*self.freedom, self.ratio)) * self.channels


def analyse_variance(batches: Sequence[Tensor]) -> BatchVariation | None:
    """How far ``batches``, (N, C) each, differ more than by chance; None if this cannot be determined.

    One-way analysis of variance, channel by channel; ω² as Hays (1963), from the sums over channels of unit variance.
    """
    usable = [batch for batch in batches if len(batch) > 1 and batch.isfinite().all()]
    if len(usable) < 2:
        return None
    together = torch.cat(usable)
    groups, examples = len(usable), len(together)
    total = (together - together.mean(0)).square().sum(0)
    within = torch.stack([(batch - batch.mean(0)).square().sum(0) for batch in usable]).sum(0)
    varies = within > 1e-12 * total.max().clamp(min=1e-30)
    if examples <= groups or not bool(varies.any()):
        return None
    total, within = total[varies], within[varies]
    noise = within / (examples - groups)
    share = ((total - within - (groups - 1) * noise) / (total + noise)).mean()
    ratio = ((total - within) / (groups - 1) / noise).max()
    return BatchVariation(float(share), float(ratio), (groups - 1, examples - groups), len(total))
