"""The moments of what a batch norm gets, by the compiled loops: at the speed at which memory is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.kernels.select import why_not_numba
from bnkit.moments import Moments


class PlaneMoments(NamedTuple):
    """The moments of each channel of each example.

    Attributes:
        means: (N, C), float64.
        squared_deviations: The sums of squared distances from these, (N, C), float64.
        positions: How many values each is of.
    """

    means: Tensor
    squared_deviations: Tensor
    positions: int

    def merged(self) -> Moments:
        """The moments of each channel over all examples."""
        mean = self.means.mean(0)
        between = (self.means - mean).square_().sum(0).mul_(self.positions)
        count = torch.tensor(float(self.positions * len(self.means)), dtype=torch.float64)
        return Moments(count, mean, self.squared_deviations.sum(0).add_(between))


def plane_moments(x: Tensor) -> PlaneMoments | None:
    """The moments of ``x``, (N, C, *), contiguous and on the CPU; None where the compiled loops cannot take it.

    As exact as ``Moments.of`` but for rounding: short runs are added up in the arithmetic of ``x``, around a value of
    their own, and these sums in float64.

    Example:
        >>> plane_moments(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])).merged().mean
        tensor([4.], dtype=torch.float64)
    """
    x = x.detach()
    takes = x.dim() > 2 and x.numel() > 0 and x.is_contiguous() and not why_not_numba(x)
    if not takes:
        return None
    from bnkit.kernels.passes import measure  # needs Numba, which is there

    means, squared_deviations = measure(x)
    return PlaneMoments(means, squared_deviations, x.numel() // (x.shape[0] * x.shape[1]))
