"""BN201."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bnkit.checks.finding import Finding, Severity
from bnkit.checks.observation import Observation
from bnkit.checks.outputs import Effect
from bnkit.checks.received import Received, is_measured
from bnkit.checks.rule import Need
from bnkit.checks.statistics.recalibrated import Recalibrated
from bnkit.model.drift import Drift

# A difference of accuracies that matters to nobody, one that is a fault, and how sure it has to be.
_POINT, _FAULT, _CHANCE = 0.01, 0.05, 0.01
# Without class numbers: this share of the outputs' size.
_CHANGE = 0.1
_NAMED = 3


class MovingAverage(Recalibrated):
    """A model that evaluates worse than its weights can, since its moving averages lag behind or are off."""

    code = "BN201"
    name = "moving-average"
    severity = Severity.ERROR
    needs = frozenset({Need.DATA})
    summary = "a moving average that costs accuracy, or changes the output"

    def findings(self, seen: Observation) -> Iterator[Finding]:
        received = [r for r in seen.measurements.received.values() if is_measured(r.place) and r.population is not None]
        drifts = sorted((_drift(one) for one in received), key=lambda drift: -drift.severity)
        effect = seen.measurements.effect
        if not drifts:
            return
        told = _named(drifts)
        if effect.examples:
            gain = effect.accuracy_by_data - effect.accuracy_by_average
            if gain < _POINT or effect.chance > _CHANCE:
                return
            severity = Severity.ERROR if gain >= _FAULT else Severity.WARNING
            yield self._finding(
                drifts[0].layer,
                "eval misses what the weights can do: accuracy "
                f"{effect.accuracy_by_average:.3f} with the moving average, {effect.accuracy_by_data:.3f} with the statistics of "
                "the data",
                told,
                severity,
                {
                    "accuracy": effect.accuracy_by_average,
                    "accuracy_population": effect.accuracy_by_data,
                    "examples": effect.examples,
                },
                {"accuracy": effect.accuracy_by_data - _POINT},
            )
        elif _changes(effect) and any(_is_beyond_chance(one) for one in received):
            change = effect.change
            assert change is not None
            yield self._finding(
                drifts[0].layer,
                f"eval is another function than the statistics of the data give: the outputs differ by {change:.0%} of their size"
                if math.isfinite(change)
                else "eval returns numbers that are not finite",
                told,
                Severity.WARNING if math.isfinite(change) else Severity.ERROR,
                {"output_change": change},
                {"output_change": _CHANGE},
            )

    def _finding(
        self,
        site: str,
        message: str,
        told: str,
        severity: Severity,
        measured: dict[str, float | int | str | bool | None],
        limit: dict[str, float | int | str | bool | None],
    ) -> Finding:
        return self.finding(
            site,
            f"{message}\nfurthest off: {told}",
            remedy="bnkit.recalibrate(model, batches)",
            measured=measured,
            limit=limit,
            severity=severity,
        )


def _changes(effect: Effect) -> bool:
    return effect.change is not None and effect.change > _CHANGE


def _drift(received: Received) -> Drift:
    assert received.population is not None
    return Drift.of(received.place.name, received.place.module, received.population)  # type: ignore[arg-type]


def _named(drifts: list[Drift]) -> str:
    some = [
        f"{drift.layer or '(the model)'} (mean {drift.largest_shift:.2g} deviations, variance × {_ratio(drift):.2g})"
        for drift in drifts[:_NAMED]
    ]
    return ", ".join(some) + (", …" if len(drifts) > _NAMED else "")


def _ratio(drift: Drift) -> float:
    """The variance ratio that is furthest from 1."""
    ratios = (drift.smallest_ratio, drift.largest_ratio)
    return max(ratios, key=lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)


def _is_beyond_chance(received: Received) -> bool:
    """Whether the moving average is further off than so few examples could make it look: by three standard errors."""
    data, layer = received.population, received.place.module
    assert data is not None
    mean, variance = (_double(getattr(layer, name)) for name in ("running_mean", "running_var"))
    eps = float(getattr(layer, "eps", 0.0))
    shift = (mean - data.mean) / (data.variance() + eps).sqrt()
    ratio = ((variance + eps) / (data.variance() + eps)).log()
    error = 1 / received.examples
    is_within = shift.square().mean() <= 9 * error and ratio.square().mean() <= 9 * 2 * error
    return not bool(is_within)  # of NaN, too


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float64)
