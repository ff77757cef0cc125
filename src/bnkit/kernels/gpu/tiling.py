"""The division of a tensor into tiles and programs for the Triton kernels: it depends only on the shape, for reproducibility."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

# With fewer float32 values per channel than this, rounding errors do not average out: float64 is used.
_EXACT_BELOW = 1024
# Elements of a tile: 16 for each of 256 threads, that is 4 loads of 16 bytes (float32); 512 threads if a program processes whole
# channels, since few of these run at a time.
_TILE = {"two_pass": 8192, "split_reduction": 4096}
_PER_THREAD = 16
_MOST_WARPS = 16
_WARP = 32
# The elements, rounded up to powers of two, that fit in the registers of a program with 512 threads: 32 in each, or 16 together
# with a gradient.
_IN_REGISTERS = {"forward": 16384, "backward": 8192}
# Up to _TWO_PASS_BYTES, one program is as fast as several. The second limit is for enough programs to fill a GPU of a hundred
# multiprocessors, whose second-level cache (50 MB and more) then holds the data for the second read.
_TWO_PASS_BYTES = 1 << 16
_TWO_PASS_BYTES_AMONG_MANY = 3 << 17
_MANY = 96
# Programs of a pass in parts: several waves on any GPU, and few sums to merge. Each has enough tiles to justify its start.
_PROGRAMS = 2048
_LEAST_TILES = 4
_MOST_PARTS = 512
# The least bytes in a row of a tile: a memory transaction. For tiles that stay in a program, not more than four transactions.
_SECTOR = 32
_SEGMENT = 128
# Rows of 64 bytes move at 0.6 of the rate, rows of 32 bytes at 0.37 (measured on an H200): about the fraction to this power.
_NARROW = 0.75


@dataclass(frozen=True, eq=False, slots=True)
class Tiling:
    """The tiles of a tensor (N, C, *).

    Attributes:
        strategy: "in_registers": a program holds the values of its channels; "two_pass": it reads them twice;
            "split_reduction": several programs share them.
        by_rows: Whether the channels are the last dimension.
        rows, columns: N and P positions; N·P and C by rows.
        unit: The largest power of two, up to 16, that divides ``columns``: the alignment of loads.
        tile: Rows and columns of a tile, powers of two.
        column_tiles: The number of tiles side by side, for planes.
        tiles: The total number of tiles of a program's channels.
        each: The number of tiles for each of the ``parts``.
        programs: The number of programs along the channels; times ``parts`` in total.
        warps: The number of warps of a program.
        is_even: Whether all tiles are full.
        is_large: Whether offsets take 64 bits.
        is_wide: Whether the computation uses float64 instead of float32.
        compiled: The launchers of kernels compiled for tensors of this shape; see ``cached_launch.start``.
    """

    strategy: Literal["in_registers", "two_pass", "split_reduction"]
    by_rows: bool
    rows: int
    columns: int
    unit: int
    tile: tuple[int, int]
    column_tiles: int
    tiles: int
    each: int
    parts: int
    programs: int
    warps: int
    is_even: bool
    is_large: bool
    is_wide: bool
    compiled: dict[tuple[object, ...], tuple[Any, tuple[object, ...]]] = field(default_factory=dict, repr=False)


def tiling_of(x: Tensor, direction: Literal["forward", "backward"], streams: int) -> Tiling:
    """The plan for a dense ``x``, contiguous or channels last; ``streams`` tensors of its size are read."""
    by_rows = x.dim() == 2 or not x.is_contiguous() or math.prod(x.shape[2:]) == 1
    return _tiling(tuple(x.shape), x.dtype, by_rows, direction, streams)


@lru_cache(maxsize=1024)
def _tiling(
    shape: tuple[int, ...], dtype: torch.dtype, by_rows: bool, direction: Literal["forward", "backward"], streams: int
) -> Tiling:
    channels, positions = shape[1], math.prod(shape[2:])
    values, itemsize = shape[0] * positions, dtype.itemsize
    rows, columns = (values, channels) if by_rows else (shape[0], positions)
    is_wide = dtype == torch.float64 or (dtype == torch.float32 and values < _EXACT_BELOW)
    shrinks = 2 if is_wide else 1
    if by_rows:
        width = _width(channels, itemsize)
        programs, together = -(-channels // width), width
    else:
        width, programs, together = _power(positions), channels, 1
    tile = (_power(rows), width)
    size = values * together * itemsize * streams
    strategy: Literal["in_registers", "two_pass", "split_reduction"] = "split_reduction"
    if math.prod(tile) <= _IN_REGISTERS[direction] // shrinks**2:
        strategy = "in_registers"
    elif size <= _TWO_PASS_BYTES or (programs >= _MANY and size <= _TWO_PASS_BYTES_AMONG_MANY):
        strategy = "two_pass"
    if strategy != "in_registers":
        if by_rows and strategy == "split_reduction":
            width = min(_power(channels), max(_SEGMENT // itemsize, 1))
            programs = -(-channels // width)
        tile = _tile(rows, columns, width if by_rows else 0, itemsize, _TILE[strategy] // shrinks**2)
    column_tiles = 1 if by_rows else -(-columns // tile[1])
    tiles = -(-rows // tile[0]) * column_tiles
    each = tiles
    if strategy == "split_reduction":
        wanted = max(1, min(_MOST_PARTS, _PROGRAMS // programs))
        each = max(-(-tiles // wanted), min(_LEAST_TILES, tiles))
    is_even = rows % tile[0] == 0 and (channels if by_rows else columns) % tile[1] == 0
    warps = min(_MOST_WARPS, max(1, _power(math.prod(tile) * shrinks // (_PER_THREAD * _WARP))))
    return Tiling(
        strategy, by_rows, rows, columns, math.gcd(columns, 16), tile, column_tiles, tiles, each, -(-tiles // each), programs,
        warps, is_even, shape[0] * channels * positions >= 1 << 31, is_wide,
    )  # fmt: skip


def _width(channels: int, itemsize: int) -> int:
    """Channels of a program that processes all their rows: at least a sector, and more if there are enough programs."""
    width = max(_SECTOR // itemsize, 1)
    while width * itemsize < _SEGMENT and channels // width > 2 * _MANY:
        width *= 2
    return min(width, _power(channels))


def _tile(rows: int, columns: int, width: int, itemsize: int, size: int) -> tuple[int, int]:
    """The tile of ``size`` elements with the least overhang over rows and columns; with ``width`` columns if not 0."""
    if width:
        return max(1, min(_power(rows), size // width)), width

    def cost(width: int) -> tuple[int, float, int]:
        height = min(size // width, _power(rows))
        covered = -(-rows // height) * height * -(-columns // width) * width
        narrow = 1.0 if width >= columns else max(1.0, _SEGMENT / (width * itemsize)) ** _NARROW
        return -height * width, narrow * covered, -width

    best = min((1 << n for n in range(size.bit_length()) if 1 << n < 2 * columns), key=cost)
    return min(size // best, _power(rows)), best


def _power(size: int) -> int:
    """The least power of two that is at least ``size``."""
    return 1 << max(size - 1, 0).bit_length()
