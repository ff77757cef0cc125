"""Batch normalization, residual and ReLU in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

from bnkit.kernels import numba_parts, passes
from bnkit.kernels.fused_kernel import FusedKernel

KERNEL = FusedKernel(
    "numba",
    numba_parts.FUSED,
    least_for_others=numba_parts.LEAST_FOR_OTHERS,
    masks_by_plane=True,  # masked loops go over planes only
    parts=numba_parts,
)
# Without Numba, this import fails, and not the first call.
assert passes.NEEDS_OUTPUT
