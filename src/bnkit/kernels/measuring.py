"""The moments of what a batch norm gets, by the compiled loops: at the speed at which memory is read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.kernels.select import why_not_numba
from bnkit.moments import Moments


class PlaneMoments(NamedTuple):
    """What was measured of (N, C, *) values.

    Attributes:
        means: Of each channel of each example, (N, C), float64.
        whole: The moments of each channel over all examples.
    """

    means: Tensor
    whole: Moments


def plane_moments(x: Tensor) -> PlaneMoments | None:
    """The moments of ``x``, (N, C, *), contiguous and on the CPU; None where the compiled loops cannot take it.

    As exact as ``Moments.of`` but for rounding: short runs are added up in the arithmetic of ``x``, around a value of
    their own, and these sums in float64.

    Example:
        >>> plane_moments(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])).whole.mean
        tensor([4.], dtype=torch.float64)
    """
    x = x.detach()
    takes = x.dim() > 2 and x.numel() > 0 and x.is_contiguous() and not why_not_numba(x)
    if not takes:
        return None
    from bnkit.kernels.passes import measure  # needs Numba, which is there

    found, count = measure(x), float(x.numel() // x.shape[1])
    return PlaneMoments(found[:-2], Moments(torch.tensor(count, dtype=torch.float64), found[-2], found[-1]))
