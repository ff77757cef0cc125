"""Batch normalization, residual and activation in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

from bnkit.kernels import numba_parts, passes
from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.fused_kernel import FusedKernel

KERNEL = FusedKernel(
    "numba",
    numba_parts.FUSED | SLOPE_BY_RESULT | {"silu"},
    fused_behind_a_sum=numba_parts.FUSED | SLOPE_BY_RESULT,
    least_for_others=numba_parts.LEAST_FOR_OTHERS,
    masks_by_plane=True,  # masked loops go over planes only
    parts=numba_parts,
)
# Without Numba, this import fails, and not the first call.
assert passes.sees(None, adds=False) is None
