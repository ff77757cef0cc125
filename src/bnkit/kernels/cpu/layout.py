"""The memory layout of a tensor, and the order in which the compiled loops visit it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch

from bnkit.kernels.cpu.threads import threads_for

KINDS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
# From this many positions on, each plane has its own loop.
_LEAST_PLANE = 512
# Columns in a row: enough to amortise the start of a loop, few enough for their sums to stay in the first-level cache.
_COLUMNS = 512
# In contiguous tensors with rows of at most this many columns, threads divide the rows, not the channels: two threads that write
# to neighbouring addresses in each row would prefetch each other's data.
_ROW = 1024
# For rows that are already contiguous (channels last, (N, C)): just enough columns to fill the widest vectors, so that a thread
# reads memory sequentially; 128 took 1.6 times as long at 51 MB.
_WHOLE_ROW = 64
# The bytes of each tensor that a thread reads twice; more would not stay in its second-level cache until the second time.
_BLOCK_BYTES = 1 << 18
# About the size of a core's second-level cache.
_CHANNEL_BYTES = 1 << 20
# Tensors up to this size, and their gradients, stay in the cache that the cores share.
_IN_ORDER_UP_TO = 1 << 23
CACHE_LINE = 64
_LINE = 16  # float32 in a cache line
# From _STREAM_FROM bytes on, stores bypass the caches: they would evict data that is read next, and a cache fetches a line before
# it is written to. A single layer gains from 1 MB on, but its output is then not in the cache for the next layer: in a whole
# network (`benchmarks/lenet.py`) it does not pay below this size. From _AHEAD_FROM bytes on, data are prefetched.
_STREAM_FROM = 1 << 23
_AHEAD_FROM = 1 << 22
# With fewer values per channel than this, rounding errors in float32 do not average out.
_EXACT_BELOW = 1024


# The workspace of a thread, for each of W columns: 2 sums in float64; then, in the compute type, 6 coefficients of the column
# (the first is the estimate of the mean until the mean is known), and 2 sums of some rows.
SUMS, COLUMNS, ROOM = 2, 6, 2


class Layout(NamedTuple):
    """The order in which the loops visit a tensor (N, C, *).

    Attributes:
        strategy: "planes" of one channel and example; "blocks" of channels, in rows of all of them; "rows", some for each
            thread.
        kind: The kind of elements.
        channels, positions: C, and the P positions of a channel; for "rows", the W columns of a wide row.
        examples: N, or the number of wide rows.
        values: The number of values per channel.
        block: Channels at a time; for "rows", the number of rows of all channels.
        depth: For "rows", the number of columns of such a row per channel.
        threads: The number of threads.
        can_stream: Whether its parts are whole cache lines, and it is large enough for stores that bypass the caches.
        ahead: Whether it is large enough for prefetching.
        scratch: The size of the threads' workspace, in float64 values.
        cleared: How many of these are initialised to 0.
        is_small: Whether it must be computed in float64 to be exact.
    """

    strategy: Literal["planes", "blocks", "rows"]
    kind: str
    examples: int
    channels: int
    positions: int
    values: int
    block: int
    depth: int
    threads: int
    can_stream: bool
    ahead: bool
    scratch: int
    cleared: int
    is_small: bool


@lru_cache(maxsize=1024)
def layout_of(
    shape: tuple[int, ...], dtype: torch.dtype, is_contiguous: bool, threads: int, *, as_planes: bool = False
) -> Layout:
    """The layout of a dense tensor (N, C, *).

    Args:
        shape, dtype: The shape and dtype of the tensor.
        is_contiguous: Whether it is contiguous; otherwise channels last.
        threads: The number of available threads.
        as_planes: Whether the strategy must be "planes".
    """
    size, channels = math.prod(shape), shape[1]
    count = size // channels
    positions = count // shape[0]
    width = torch.empty((), dtype=dtype).element_size()
    large = size * width >= _STREAM_FROM and dtype in (torch.float32, torch.float64)
    ahead, is_small = size * width >= _AHEAD_FROM, count < _EXACT_BELOW
    kind = KINDS[dtype]

    if is_contiguous and (as_planes or positions >= _LEAST_PLANE):
        nontemporal = large and positions * width % CACHE_LINE == 0
        team = threads_for(channels, size, threads)
        # A thread takes all its channels at once if they fit in the shared cache, or if a single channel does not fit in its
        # own cache: then it reads memory sequentially.
        in_order = size * width <= _IN_ORDER_UP_TO or count * width > _CHANNEL_BYTES
        block = -(-channels // team) if in_order else max(1, _BLOCK_BYTES // (count * width))
        return Layout(
            "planes", kind, shape[0], channels, positions, count, block, 1, team, nontemporal, ahead, 0, 0, is_small
        )
    depth = positions if is_contiguous else 1
    if channels * depth > _ROW and depth > 1:
        unit = _LINE // math.gcd(positions, _LINE)  # a multiple of this many channels fills whole cache lines
        most = min(max(1, round(_COLUMNS / (positions * unit))) * unit, channels)
        team = threads_for(-(-channels // most), size, threads)
        turns = -(-channels // (most * team))
        block = min(-(-channels // (turns * team * unit)) * unit, channels)  # equal work for all threads
        nontemporal = (
            large and channels * positions * width % CACHE_LINE == 0 and block * positions * width % CACHE_LINE == 0
        )
        workspace = workspace_for_blocks(block * positions, team)
        return Layout(
            "blocks",
            kind,
            shape[0],
            channels,
            positions,
            count,
            block,
            1,
            team,
            nontemporal,
            ahead,
            workspace,
            0,
            is_small,
        )
    row, narrow = channels * depth, count // depth
    step = _LINE // math.gcd(row, _LINE)  # a multiple of this many rows fills whole cache lines
    columns = row * (min(narrow, max(1, _WHOLE_ROW // (row * step)) * step) if row < _COLUMNS else 1)
    rows = size // columns
    nontemporal = large and columns * width % CACHE_LINE == 0
    team = threads_for(rows, size, threads)
    workspace, cleared = workspace_for_rows(columns, team)
    return Layout(
        "rows",
        kind,
        rows,
        channels,
        columns,
        count,
        narrow,
        depth,
        team,
        nontemporal,
        ahead,
        workspace,
        cleared,
        is_small,
    )


def workspace_for_blocks(columns: int, threads: int) -> int:
    """The size of the threads' workspace for blocks of ``columns`` columns, in float64 values."""
    return (SUMS + COLUMNS + ROOM) * columns * threads


def workspace_for_rows(columns: int, threads: int) -> tuple[int, int]:
    """The size of the threads' workspace for rows of ``columns`` columns, in float64 values; and how many, the sums, begin as 0.

    In addition to the threads' sums there are those of the remainder, which is less than a wide row.
    """
    return (SUMS * (threads + 1) + (COLUMNS + ROOM) * threads) * columns, SUMS * (threads + 1) * columns
