"""How a tensor lies in memory, as far as the compiled loops have to know."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_KINDS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
# Fewer positions than a vector has places are columns beside those of the other channels.
_LEAST_POSITIONS = 16
# Several rows make a wide one of about so many columns: long enough for a loop to be worth its start, short enough for the
# sums of all columns to stay in the first cache.
_COLUMNS = 512
_CACHE_LINE = 64
# From this size on, what is written would push out of the caches what is read next: it goes past them.
_STREAM_FROM_BYTES = 1 << 22


class Layout:
    """How a tensor lies in memory: as planes (N, C, P), or as a table of wide rows."""

    __slots__ = ("as_planes", "channels", "count", "examples", "group", "kind", "positions", "row", "size", "width")

    def __init__(self, x: Tensor) -> None:
        shape = x.shape
        self.kind, self.size = _KINDS[x.dtype], x.numel()
        self.examples, self.channels = shape[0], shape[1]
        self.count = self.size // self.channels
        self.positions = self.count // self.examples
        is_contiguous = len(shape) == 2 or x.is_contiguous()
        self.as_planes = is_contiguous and self.positions >= _LEAST_POSITIONS
        # Of a column's channel: consecutive columns (few positions of it), or every C-th.
        self.group = self.positions if is_contiguous else 1
        self.row = self.width = self.channels * self.group
        if self.group == 1 and self.row < _COLUMNS:
            # A multiple of 16 columns, so that every wide row begins with a cache line if the first one does.
            step = 16 // math.gcd(self.row, 16)
            self.width *= max(1, min(self.count, -(-_COLUMNS // (self.row * step)) * step))

    def streams(self, target: Tensor) -> bool:
        """Whether ``target`` is written past the caches: where it is large, and consists of whole cache lines."""
        width = target.element_size()
        piece = self.positions if self.as_planes else self.width
        return (
            self.size * width >= _STREAM_FROM_BYTES
            and self.kind in ("float32", "float64")
            and piece * width % _CACHE_LINE == 0
            and target.data_ptr() % _CACHE_LINE == 0
        )
