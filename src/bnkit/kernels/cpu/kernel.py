"""Batch normalization, residual and activation in few passes over memory: for the CPU, compiled by Numba."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.cpu import launch, sync_passes
from bnkit.kernels.cpu.loop_call import given_statistics
from bnkit.kernels.fused.kernel import FusedKernel
from bnkit.kernels.fused.operands import are_rows, is_bare, is_dense
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.kernels.tracing import is_plain_eager


class CpuKernel(FusedKernel):
    """The compiled loops; an evaluation without gradients is one pass with little overhead."""

    def running_stats_forward(self, args: BatchNormArgs) -> Tensor:
        """See ``kernel_interface.Kernel``."""
        x, residual, (mean, variance) = args.input, args.residual, args.statistics
        if (
            args.activation in (self.fused if residual is None else self.fused_behind_a_sum)
            and x.dtype is not torch.float64  # whose parameters are float64
            and x.numel()
            and is_plain_eager(x)
            and is_dense(x)
            and is_bare(x)
            and are_rows(x.shape[1], torch.float32, mean, variance, args.weight, args.bias)
            and (
                residual is None
                or (residual.dtype is x.dtype and residual.stride() == x.stride() and is_bare(residual))
            )
            and not (
                torch.is_grad_enabled()
                and any(t is not None and t.requires_grad for t in (x, args.weight, args.bias, residual))
            )
        ):
            return launch.forward(args, given_statistics(mean, variance, args.eps), float64_compute=False)
        return super().running_stats_forward(args)


KERNEL = CpuKernel(
    "numba",
    launch,
    sync_passes.FUSED | SLOPE_BY_RESULT | {"silu", "gelu"},
    fused_behind_a_sum=sync_passes.FUSED | SLOPE_BY_RESULT,
    least_for_others=sync_passes.LEAST_FOR_OTHERS,
    masks_by_plane=True,  # masked loops go over planes only
    parts=sync_passes,
)
