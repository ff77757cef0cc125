"""Batch normalization, residual and ReLU in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

from bnkit.kernels import passes
from bnkit.kernels.fused_kernel import FusedKernel

# What is fused; the others take longer to compute than to fetch, and PyTorch computes them with vectors.
KERNEL = FusedKernel(
    "numba",
    frozenset({None, "relu", "leaky_relu"}),
    least_for_others=1 << 14,
    masks_by_plane=True,  # masked loops go over planes only
)
# Without Numba, this import fails, and not the first call.
assert passes.NEEDS_OUTPUT
