"""The device that a run computes on: its clock, its arithmetic, its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def now(device: torch.device) -> float:
    """Seconds on a clock that never jumps, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Inside, a GPU is the current one, and computes as the CPU does, within rounding, the same each time.

    No effect on a CPU.

    PyTorch lets convolutions round their float32 inputs to TensorFloat-32, of 10 bits, and cuDNN choose algorithms that
    add up in any order: a comparison of two networks would compare that too.
    """
    if device.type != "cuda":
        yield
        return
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.cuda.device(device), exact:
        yield


class PeakMemory:
    """The most memory that tensors take on a device from now on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def bytes(self) -> int | None:
        """So far; None on a CPU, where nothing counts it."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None
