"""BN201."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bnkit.checks.check_context import CheckContext
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.layer_input_statistics import InputStatistics, takes_statistics
from bnkit.checks.rule_needs import Need
from bnkit.checks.rules.statistics.recalibrate_fix import RecalibrateFix
from bnkit.model.statistics.running_stats_drift import Drift
from bnkit.model.verify.prediction_changes import POINT, SHARE, PredictionChanges

# Relative to the size of the outputs.
_CHANGE = 0.1
_NAMED = 3


class StaleRunningStats(RecalibrateFix):
    """A model that evaluates worse than its weights allow, because its moving averages lag or are wrong."""

    code = "BN201"
    name = "stale-running-stats"
    former_names = ("moving-average",)
    severity = Severity.ERROR
    needs = frozenset({Need.DATA})

    def findings(self, context: CheckContext) -> Iterator[Finding]:
        inputs = [
            r
            for r in context.measurements.input_statistics.values()
            if takes_statistics(r.site) and r.population is not None
        ]
        drifts = sorted((_drift(one) for one in inputs), key=lambda drift: -drift.severity)
        effect = context.measurements.effect
        if not drifts:
            return
        site, layers = drifts[0].layer, _describe(drifts)
        if effect.is_more_accurate:
            yield self._finding(
                site,
                "eval is worse than the weights allow: accuracy "
                f"{effect.accuracy_before:.3f} with the moving average, {effect.accuracy_after:.3f} with the statistics of the data",
                layers,
                Severity.ERROR,
                {
                    "accuracy": effect.accuracy_before,
                    "accuracy_population": effect.accuracy_after,
                    "examples": effect.examples,
                },
                {"accuracy": effect.accuracy_after - POINT},
            )
        elif effect.has_less_loss and not effect.is_less_accurate:
            yield self._finding(
                site,
                f"eval is worse than the weights allow: {effect.loss} {effect.loss_before:.4g} with the moving average, "
                f"{effect.loss_after:.4g} with the statistics of the data",
                layers,
                Severity.WARNING,
                {"loss": effect.loss_before, "loss_population": effect.loss_after, "examples": effect.examples},
                {"loss": effect.loss_after * (1 + SHARE)},
            )
        elif _changes_output(effect) and any(_is_significant(one) for one in inputs):
            change = effect.change_by_result
            assert change is not None
            yield self._finding(
                site,
                "the running statistics do not match the data: in eval, the outputs differ by "
                f"{change:.0%} of their size from those by the data's own"
                if math.isfinite(change)
                else "eval returns non-finite numbers",
                layers,
                Severity.WARNING if math.isfinite(change) else Severity.ERROR,
                {"output_change": change},
                {"output_change": _CHANGE},
            )

    def _finding(
        self,
        site: str,
        message: str,
        layers: str,
        severity: Severity,
        measured: dict[str, float | int | str | bool | None],
        limit: dict[str, float | int | str | bool | None],
    ) -> Finding:
        return self.finding(
            site,
            f"{message}\nfurthest off: {layers}",
            remedy="bnkit.recalibrate(model, batches)",
            measured=measured,
            limit=limit,
            severity=severity,
        )


def _changes_output(effect: PredictionChanges) -> bool:
    """Whether the outputs differ, and those with the moving average are not known to be better."""
    if effect.is_less_accurate or effect.has_more_loss:
        return False
    return effect.change_by_result is not None and effect.change_by_result > _CHANGE


def _drift(inputs: InputStatistics) -> Drift:
    assert inputs.population is not None
    return Drift.of(inputs.site.name, inputs.site.module, inputs.population)  # type: ignore[arg-type]


def _describe(drifts: list[Drift]) -> str:
    some = [
        f"{drift.layer or '(the model)'} (mean {drift.largest_shift:.2g} deviations, variance × {_extreme_ratio(drift):.2g})"
        for drift in drifts[:_NAMED]
    ]
    return ", ".join(some) + (", …" if len(drifts) > _NAMED else "")


def _extreme_ratio(drift: Drift) -> float:
    """The variance ratio that is furthest from 1."""
    ratios = (drift.smallest_ratio, drift.largest_ratio)
    return max(ratios, key=lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)


def _is_significant(inputs: InputStatistics) -> bool:
    """Whether the error of the moving average exceeds three standard errors of the measured statistics."""
    data, layer = inputs.population, inputs.site.module
    assert data is not None
    mean, variance = (_double(getattr(layer, name)) for name in ("running_mean", "running_var"))
    eps = float(getattr(layer, "eps", 0.0))
    shift = (mean - data.mean) / (data.variance() + eps).sqrt()
    ratio = ((variance + eps) / (data.variance() + eps)).log()
    error = 1 / inputs.examples
    is_within = shift.square().mean() <= 9 * error and ratio.square().mean() <= 9 * 2 * error
    return not bool(is_within)  # also for NaN


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float64)
