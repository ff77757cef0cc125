"""Which kernels a test body is run for."""

from __future__ import annotations

import os

from bnkit.kernels import KERNEL_NAMES

# Triton reads this when it is imported: its kernels run as Python then, on the CPU, in a process of their own
# (tests/kernels/gpu/test_kernel.py starts it), and the others run without.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = tuple(name for name in KERNEL_NAMES if (name == "triton") == INTERPRETED)
# Of the two ways to take a tensor's values twice only: not the equations, nor PyTorch's own.
FUSED = KERNELS[-1]
