"""The device that a run computes on: its clock, its arithmetic, its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Inside, a GPU is the current device, and its results match the CPU's up to rounding; no effect on a CPU.

    By default PyTorch lets convolutions round their float32 inputs to TensorFloat-32, of 10 bits, and lets cuDNN choose
    algorithms with any order of summation, which would affect a comparison of two networks.
    """
    if device.type != "cuda":
        yield
        return
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.cuda.device(device), exact:
        yield


class PeakMemory:
    """The peak memory of tensors on a device, from now on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def bytes(self) -> int | None:
        """The peak so far; None on a CPU, where it is not measured."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None
