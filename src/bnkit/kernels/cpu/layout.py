"""How a tensor lies in memory, and which way through it the compiled loops take."""

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
# From so many positions on, a plane is worth a loop of its own.
_LEAST_PLANE = 512
# Columns in a row: enough for a loop to be worth its start, few enough for their sums to stay in the first cache.
_COLUMNS = 512
# Up to so many columns does a row of a contiguous tensor have for threads to share rows, and not channels: where two threads write
# next to each other in each row, each fetches ahead what the other one writes.
_ROW = 1024
# Of rows that are whole already (channels last, (N, C)): as few as fill the widest vectors, so that a thread goes through memory
# from beginning to end; 128 took 1.6 times as long at 51 MB.
_WHOLE_ROW = 64
# So many bytes of each tensor does a thread read twice; more would not be in its second-level cache the second time.
_BLOCK_BYTES = 1 << 18
# About the second-level cache of a core.
_CHANNEL_BYTES = 1 << 20
# Tensors up to this stay, beside their gradients, in the cache that the cores share.
_IN_ORDER_UP_TO = 1 << 23
CACHE_LINE = 64
_LINE = 16  # float32 in a cache line
# From so many bytes on, what is written goes past the caches: it would push out of them what is read next, and a cache fetches
# a line before it is written to. By itself a layer is faster so from 1 MB on, but then the next one finds nothing in the cache: in
# a whole network (`benchmarks/lenet.py`) it does not pay below. From so many on, what is read next is fetched ahead.
_STREAM_FROM = 1 << 23
_AHEAD_FROM = 1 << 22
# On fewer values a channel than this, rounding in float32 does not average out.
_EXACT_BELOW = 1024


# What a thread has to work in, for each of W columns: the sums, 2, float64; then, of what is computed in, what a column is
# computed with, 6 (the first is the guess of the mean until that is known), and the sums of some rows, 2.
SUMS, COLUMNS, ROOM = 2, 6, 2


class Layout(NamedTuple):
    """The way through a tensor (N, C, *).

    Attributes:
        way: "planes" of one channel and example; "blocks" of channels, in rows of all of them; "rows", some for each
            thread.
        kind: Of the elements.
        channels, positions: C, and what lies behind it: P positions; by "rows", the W columns of a wide row.
        examples: N, or how many wide rows there are.
        values: Of a channel.
        block: Channels at a time; by "rows", the rows of all channels.
        depth: By "rows", how many columns of such a row belong to a channel.
        threads: How many.
        can_stream: Whether all of it lies in whole cache lines, and it is large enough to be written past the caches.
        ahead: Whether it is large enough to be fetched ahead.
        scratch: How many float64 the threads work in.
        cleared: How many of these are 0 at first.
        is_small: Whether it has to be computed in float64 to be exact.
    """

    way: Literal["planes", "blocks", "rows"]
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
        shape, dtype: Of the tensor.
        is_contiguous: Whether it is, or else channels last.
        threads: How many there are.
        as_planes: Whether no other way will do.
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
        # A thread takes all its channels at once where a cache that the cores share holds them, or where no cache of its own
        # would hold a single one: then it goes through memory in its order.
        in_order = size * width <= _IN_ORDER_UP_TO or count * width > _CHANNEL_BYTES
        block = -(-channels // team) if in_order else max(1, _BLOCK_BYTES // (count * width))
        return Layout(
            "planes", kind, shape[0], channels, positions, count, block, 1, team, nontemporal, ahead, 0, 0, is_small
        )
    depth = positions if is_contiguous else 1
    if channels * depth > _ROW and depth > 1:
        unit = _LINE // math.gcd(positions, _LINE)  # so many channels begin with a cache line
        most = min(max(1, round(_COLUMNS / (positions * unit))) * unit, channels)
        team = threads_for(-(-channels // most), size, threads)
        turns = -(-channels // (most * team))
        block = min(-(-channels // (turns * team * unit)) * unit, channels)  # so that all threads have as much to do
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
    step = _LINE // math.gcd(row, _LINE)  # so many rows are whole cache lines
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
    """How many float64 the threads work in, for blocks of so many columns."""
    return (SUMS + COLUMNS + ROOM) * columns * threads


def workspace_for_rows(columns: int, threads: int) -> tuple[int, int]:
    """How many float64 the threads work in, for rows of so many columns; and how many of them begin as 0, the sums.

    Besides theirs there are the sums of what is left: less than a wide row.
    """
    return (SUMS * (threads + 1) + (COLUMNS + ROOM) * threads) * columns, SUMS * (threads + 1) * columns
