"""Batch normalization, residual and activation in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.cpu import launch, split
from bnkit.kernels.fused.kernel import FusedKernel

KERNEL = FusedKernel(
    "numba",
    launch,
    split.FUSED | SLOPE_BY_RESULT | {"silu", "gelu"},
    fused_behind_a_sum=split.FUSED | SLOPE_BY_RESULT,
    least_for_others=split.LEAST_FOR_OTHERS,
    masks_by_plane=True,  # masked loops go over planes only
    parts=split,
)
