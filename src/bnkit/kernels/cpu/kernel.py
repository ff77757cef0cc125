"""Batch normalization, residual and activation in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.cpu import launch, split
from bnkit.kernels.cpu.given_statistics import given_statistics
from bnkit.kernels.fused.kernel import FusedKernel
from bnkit.kernels.fused.operands import are_rows, is_bare, is_dense
from bnkit.kernels.fused.tracing import is_plain_eager


class CpuKernel(FusedKernel):
    """The compiled loops; an evaluation that nobody differentiates is one pass, with little before it."""

    def running_stats_forward(
        self,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
        residual: Tensor | None,
    ) -> Tensor:
        """See ``contract.Kernel``."""
        if (
            activation in (self.fused if residual is None else self.fused_behind_a_sum)
            and x.dtype is not torch.float64  # whose parameters are
            and x.numel()
            and is_plain_eager(x)
            and is_dense(x)
            and is_bare(x)
            and are_rows(x.shape[1], torch.float32, mean, variance, weight, bias)
            and (
                residual is None
                or (residual.dtype is x.dtype and residual.stride() == x.stride() and is_bare(residual))
            )
            and not (
                torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, residual))
            )
        ):
            statistics = given_statistics(mean, variance, eps)
            return launch.forward(
                x, weight, bias, residual, None, 1, statistics, activation, eps, is_given=True, float64_compute=False
            )
        return super().running_stats_forward(x, mean, variance, weight, bias, eps, activation, residual)


KERNEL = CpuKernel(
    "numba",
    launch,
    split.FUSED | SLOPE_BY_RESULT | {"silu", "gelu"},
    fused_behind_a_sum=split.FUSED | SLOPE_BY_RESULT,
    least_for_others=split.LEAST_FOR_OTHERS,
    masks_by_plane=True,  # masked loops go over planes only
    parts=split,
)
