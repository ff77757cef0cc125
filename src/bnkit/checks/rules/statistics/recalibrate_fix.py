"""The base class of rules whose findings recalibration fixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from bnkit.checks.finding import Finding
from bnkit.checks.rule import Rule
from bnkit.model.change_list import Change
from bnkit.model.statistics.recalibrate import recalibrate


class RecalibrateFix(Rule):
    """A rule whose findings are fixed by recalibrating all layers."""

    is_fixable: ClassVar[bool] = True

    def fix(self, model: nn.Module, findings: Sequence[Finding], batches: Any) -> list[Change]:
        if batches is None:
            return []
        done = recalibrate(model, batches)
        return [
            Change(
                drift.layer,
                "recalibrated",
                f"the mean was off by up to {drift.largest_shift:.3g} deviations, the variance × {drift.smallest_ratio:.3g} to "
                f"{drift.largest_ratio:.3g}",
            )
            for drift in done.layers
        ]
