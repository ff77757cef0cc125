"""The moments of a batch norm's input, computed by the compiled loops at memory speed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.kernels.select_kernel import why_not_numba_now
from bnkit.mergeable_moments import Moments


class PlaneMoments(NamedTuple):
    """The moments of (N, C, *) values.

    Attributes:
        table: For each example the mean of each channel; the means over all examples; the sums of squared deviations from
            those. (N + 2, C), float64.
        values: The number of values per channel.
    """

    table: Tensor
    values: int

    @property
    def means(self) -> Tensor:
        """The mean of each channel of each example, (N, C), float64."""
        return self.table[:-2]

    @property
    def whole(self) -> Moments:
        """The moments of each channel over all examples; they do not keep the table alive."""
        mean, squares = self.table[-2:].clone().unbind()
        return Moments(torch.tensor(float(self.values), dtype=torch.float64), mean, squares)


def plane_moments(x: Tensor) -> PlaneMoments | None:
    """The moments of ``x``, (N, C, *), contiguous and on the CPU; None if the compiled loops do not support it.

    Equal to ``Moments.of`` up to rounding: short runs are summed in the arithmetic of ``x``, relative to a separate shift,
    and these sums are added in float64.

    Examples:
        >>> plane_moments(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]])).whole.mean
        tensor([4.], dtype=torch.float64)
    """
    x = x.detach()
    is_supported = x.dim() > 2 and x.numel() > 0 and x.is_contiguous()
    if not is_supported or why_not_numba_now(x, purpose="moments"):
        return None
    from bnkit.kernels.cpu.launch import moments_of_planes  # needs Numba, which is installed here

    return PlaneMoments(moments_of_planes(x), x.numel() // x.shape[1])
