"""BN109."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule import Rule
from bnkit.model.change_list import Change


class HalfPrecision(Rule):
    """Running statistics with too few bits for small updates, so that the moving average stops before it converges."""

    code = "BN109"
    name = "half-precision-statistics"
    severity = Severity.WARNING
    is_fixable = True

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        for site, norm in context.norms.items():
            if norm.is_frozen or norm.mean is None or norm.mean.dtype not in (torch.float16, torch.bfloat16):
                continue
            momentum = norm.momentum
            if momentum is None or not 0 < momentum < 1:
                continue
            # new = old + momentum * (batch - old) changes only if the step exceeds half the gap between neighbours.
            stuck = torch.finfo(norm.mean.dtype).eps / 2 / momentum
            dtype = str(norm.mean.dtype).removeprefix("torch.")
            yield self.finding(
                site.name,
                f"its running statistics are {dtype}: within {stuck:.1%} of the data's they are no longer updated",
                remedy="keep the layer in float32: autocast does, model.half() does not",
                measured=dtype,
                limit="float32",
            )

    def fix(self, model: nn.Module, findings: Sequence[Finding], batches: Any) -> list[Change]:
        changes = []
        for finding in findings:
            norm = model.get_submodule(finding.site)
            for name in ("running_mean", "running_var"):
                buffer = norm._buffers[name]
                assert buffer is not None
                norm._buffers[name] = buffer.float()
            changes.append(Change(finding.site, "statistics widened", f"{finding.measured} to float32"))
        return changes
