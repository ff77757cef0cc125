"""How a tensor lies in memory, as far as the compiled loops have to know."""

from __future__ import annotations

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
# Several rows of few channels make a wide one, so that the loop over columns fills vectors.
_LEAST_COLUMNS = 64
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
        if self.group == 1 and self.row < _LEAST_COLUMNS:
            self.width *= min(self.count, -(-_LEAST_COLUMNS // self.row))

    def streams(self, *tensors: Tensor) -> bool:
        """Whether results go past the caches: where they are large, and whole cache lines are written."""
        width = tensors[0].element_size()
        return (
            self.size * width >= _STREAM_FROM_BYTES
            and self.kind in ("float32", "float64")
            and self.positions * width % _CACHE_LINE == 0
            and all(tensor.data_ptr() % _CACHE_LINE == 0 for tensor in tensors)
        )
