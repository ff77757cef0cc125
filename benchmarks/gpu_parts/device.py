"""What the parts of ``benchmarks/gpu.py`` measure with: a device, a clock that runs out, times in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

_FLUSHED = 1 << 28  # bytes written between two measurements: several times any second-level cache
_AHEAD = 4_000_000  # cycles of the device, some two milliseconds: longer than a slow host takes for a layer, both ways
Step = Callable[[], object]


class OutOfTimeError(Exception):
    """What was asked for does not fit into the time that is left."""


class Bench:
    """A device, the time that is left, and notes on what was left out for lack of it.

    Attributes:
        device: "cuda", or "cpu": a dry run through Triton's interpreter on tiny shapes, whose times mean nothing.
        notes: What was dropped, in words.
    """

    def __init__(self, device: str, seconds: float, start: float) -> None:
        self.device = device
        self.is_dry = device == "cpu"
        self.notes: list[str] = []
        self._end = start + seconds
        self._flush: torch.Tensor | None = None

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def need(self, seconds: float, what: str) -> None:
        """An OutOfTimeError where fewer seconds are left."""
        if self.left() < seconds:
            raise OutOfTimeError(f"{what}: left out, {max(self.left(), 0):.0f} s of the time limit were left")

    def synchronize(self) -> None:
        """Wait for the device."""
        if not self.is_dry:
            torch.cuda.synchronize()

    def times(self, steps: dict[str, Step], repeats: int, *, flush: bool = True) -> dict[str, float]:
        """The median time of each step in ms; they take turns, and start with nothing of theirs in the cache."""
        spent: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        for _ in range(repeats):
            for name, step in steps.items():
                spent[name].append(self._one(step, flush=flush))
        return {name: median(values) for name, values in spent.items()}

    def _one(self, step: Step, *, flush: bool) -> float:
        if self.is_dry:
            begin = time.perf_counter()
            step()
            return 1000 * (time.perf_counter() - begin)
        if flush:
            if self._flush is None:
                self._flush = torch.empty(_FLUSHED, dtype=torch.uint8, device=self.device)
            self._flush.zero_()
        begins, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_AHEAD)  # the host runs ahead of the device meanwhile: its own time is not in the measurement
        begins.record()
        step()
        ends.record()
        ends.synchronize()
        return float(begins.elapsed_time(ends))
