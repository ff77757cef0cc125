"""Compute means, deviations and quantiles of many tensors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bnkit.model.instrument.batched_statistics import BatchedStatistics

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Quantiles use at most this many values of a tensor, evenly spread, because sorting is expensive.
_VALUES = 2048

Array = npt.NDArray[np.float64]


class Distribution(NamedTuple):
    """Statistics of one tensor.

    Attributes:
        means, deviations: For each unit, (units,); the deviations are biased (divided by n).
        figures: ``mean``, ``deviation`` and ``quantiles`` (``QUANTILES``) of all values; None for those that are not
            finite.
    """

    means: Array
    deviations: Array
    figures: dict[str, Any]


class Distributions(BatchedStatistics[Distribution]):
    """The distributions of tensors that are recorded with the dimension of their units.

    Args:
        quantiles: Whether to compute quantiles too.
    """

    def __init__(self, quantiles: bool = True) -> None:
        super().__init__()
        self._quantiles = quantiles

    def _reduce(self, stacked: Tensor, key: int) -> tuple[Tensor, ...]:
        if stacked.dtype not in (torch.float32, torch.float64):
            stacked = stacked.float()
        units = 1 + key % (stacked.dim() - 1)
        moments = _moments(stacked, [d for d in range(1, stacked.dim()) if d != units])
        return (*moments, _sample(stacked)) if self._quantiles else moments

    def _figures(self, *reduced: Tensor) -> list[Distribution]:
        of_units, within = (moment.cpu().double().numpy() for moment in reduced[:2])
        with np.errstate(all="ignore"):  # values that are not finite become None
            mean = of_units.mean(1)
            deviation = np.sqrt((within**2 + (of_units - mean[:, None]) ** 2).mean(1))  # units have equal sizes
        figures: list[dict[str, Any]] = [
            {"mean": round_sig(m), "deviation": round_sig(d)}
            for m, d in zip(mean.tolist(), deviation.tolist(), strict=True)
        ]
        if self._quantiles:
            # NumPy sorts a few thousand values ten times as fast as torch does.
            ordered = np.sort(reduced[2].cpu().numpy(), axis=1)
            places = [round(share * (ordered.shape[1] - 1)) for share in QUANTILES]
            for entry, quantiles in zip(figures, ordered[:, places].tolist(), strict=True):
                entry["quantiles"] = [round_sig(value) for value in quantiles]
        return [Distribution(*each) for each in zip(of_units, within, figures, strict=True)]


def round_sig(value: float) -> float | None:
    """``value`` rounded to a few significant digits, since a record holds thousands; None if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _moments(values: Tensor, dimensions: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and deviation over ``dimensions``, in two passes: on a CPU in a tenth of the time of ``torch.std_mean``."""
    if not dimensions:
        return values, torch.zeros_like(values)
    means = values.mean(dimensions, keepdim=True)
    return means.squeeze(dimensions), (values - means).square_().mean(dimensions).sqrt_()


def _sample(stacked: Tensor) -> Tensor:
    """Some values of each tensor, (tensors, values), spread evenly over its memory; a copy."""
    dimensions = sorted(range(1, stacked.dim()), key=stacked.stride, reverse=True)
    flat = stacked.permute(0, *dimensions).flatten(1)
    return flat[:, :: _stride(flat.shape[1])].clone()


def _stride(values: int) -> int:
    """The stride of a sample. Coprime to the number of values, so that all units and positions are sampled equally."""
    stride = -(-values // _VALUES)
    while math.gcd(stride, values) > 1:
        stride += 1
    return stride
