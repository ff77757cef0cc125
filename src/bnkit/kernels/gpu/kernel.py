"""Batch normalization, residual and every named activation in few passes over memory, on a GPU, with Triton."""

from __future__ import annotations

import torch
from triton import knobs

from bnkit.kernels.activation import FUNCTIONS
from bnkit.kernels.fused.kernel import FusedKernel
from bnkit.kernels.gpu import launch

# NVIDIA's GPUs from Ampere on; Triton does not support older ones.
_LEAST_CAPABILITY = (8, 0)
_IS_INTERPRETED = bool(knobs.runtime.interpret)  # read by Triton when the kernels were defined, a moment ago

KERNEL = FusedKernel("triton", launch, frozenset({None, *FUNCTIONS}))


def why_not(device: torch.device) -> str:
    """Why the kernels cannot run on ``device``; empty if they can."""
    if _IS_INTERPRETED:
        return "" if device.type == "cpu" else "TRITON_INTERPRET=1 makes it run on the CPU"
    if not torch.cuda.is_available():  # a fake tensor on a CUDA device
        return "there is no GPU"
    capability = torch.cuda.get_device_capability(device)
    if not torch.version.hip and capability < _LEAST_CAPABILITY:
        return f"it needs a GPU of compute capability 8.0 or newer, and {device} has {'.'.join(map(str, capability))}"
    return ""
