"""The forward pass in Triton: in one kernel where a program can do a channel alone, otherwise in three.

Each kernel that writes takes the tiles in the reverse order of the one that read them: what was read last is still in the cache.

The pointers, which mean the same in every kernel. C channels, row by row: (2, C) has C elements between its rows.

- ``x``, ``residual``, ``y``: (N, C, *), all contiguous or all channels last; the input's dtype. Without a residual, None.
- ``weight``, ``bias``: gamma and beta, (C,), stride 1; float32, or float64 for float64 inputs. None for 1 and 0.
- ``mask``: (N, 1, *), contiguous; uint8, 0 for what does not count. None where everything counts.
- ``statistics``: (6, C) float64: mean, biased variance, 1 / sqrt(variance + eps), unbiased variance; two rows are not used.
- ``running_mean``, ``running_var``: (C,), stride 1; float32, read and written. None where no buffer moves.
- ``tracked``: (), int64, counts the batches. None without a counter.
- ``partial``: (3, parts, C) float64, contiguous: count, mean and squared deviations of each part of the tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bnkit.kernels.gpu.reductions import moments_of_tile, moments_of_tiles
from bnkit.kernels.gpu.statistics import affine, finalize, merge, saved_statistics
from bnkit.kernels.gpu.tiles import activate, channels_of, load, load_mask, store, tile_offsets

# Numbers that would otherwise make a variant of a kernel each, for being 1 or divisible by 16.
_NUMBERS = ["rows", "units", "channels", "column_tiles", "tiles", "each", "parts", "count"]


@triton.jit
def write(
    x, residual, y, mean_hi, scale, shift, first, last, program, rows, columns, channels, column_tiles, A: tl.constexpr,
    B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write the result for the tiles from ``first`` to before ``last``, backwards."""
    for step in range(first, last):
        t = last - 1 - (step - first)
        offsets, _, inside = tile_offsets(t, program, rows, columns, channels, column_tiles, A, B, BY_ROWS, LARGE)
        z = tl.fma(load(x, offsets, inside, EVEN, ACC_DTYPE) - mean_hi, scale, shift)
        if residual is not None:
            z += load(residual, offsets, inside, EVEN, ACC_DTYPE)
        store(y, offsets, activate(z, ACTIVATION), inside, EVEN)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_in_registers(
    x, residual, y, weight, bias, mask, statistics, running_mean, running_var, tracked, rows, units, channels, column_tiles,
    tiles, count, eps, eps_low, momentum, momentum_low, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """A program holds all the values of its channels: x is read once."""
    program, columns = tl.program_id(0), units * UNIT
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    offsets, positions, inside = tile_offsets(0, program, rows, columns, channels, column_tiles, A, B, BY_ROWS, LARGE)
    value = load(x, offsets, inside, EVEN, ACC_DTYPE)
    _, mean, squares = moments_of_tile(value, load_mask(mask, positions, inside), BY_ROWS)
    inverse = finalize(statistics, running_mean, running_var, tracked, channel, exists, channels, mean, squares, count, eps, eps_low,
                     momentum, momentum_low)  # fmt: skip
    mean_hi, scale, shift, _ = affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE)
    z = tl.fma(value - mean_hi, scale, shift)
    if residual is not None:
        z += load(residual, offsets, inside, EVEN, ACC_DTYPE)
    store(y, offsets, activate(z, ACTIVATION), inside, EVEN)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_two_pass(
    x, residual, y, weight, bias, mask, statistics, running_mean, running_var, tracked, rows, units, channels, column_tiles,
    tiles, count, eps, eps_low, momentum, momentum_low, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """A program reads the values of its channels twice, the second time from the cache."""
    program, columns = tl.program_id(0), units * UNIT
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    _, mean, squares = moments_of_tiles(x, mask, 0, tiles, program, rows, columns, channels, column_tiles, A, B, BY_ROWS,
                                        EVEN, LARGE, ACC_DTYPE)  # fmt: skip
    inverse = finalize(statistics, running_mean, running_var, tracked, channel, exists, channels, mean, squares, count, eps, eps_low,
                     momentum, momentum_low)  # fmt: skip
    mean_hi, scale, shift, _ = affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE)
    write(x, residual, y, mean_hi, scale, shift, 0, tiles, program, rows, columns, channels, column_tiles, A, B, BY_ROWS, EVEN,
          LARGE, ACC_DTYPE, ACTIVATION)  # fmt: skip


@triton.jit(do_not_specialize=_NUMBERS)
def forward_sums(
    x, mask, partial, rows, units, channels, column_tiles, tiles, each, parts, UNIT: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr,
):  # fmt: skip
    """The moments of a part of the tiles: (3, parts, C) float64, count, mean and squared deviations."""
    program, part, columns = tl.program_id(0), tl.program_id(1), units * UNIT
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    first = part * each
    many, mean, squares = moments_of_tiles(x, mask, first, tl.minimum(first + each, tiles), program, rows, columns, channels,
                                           column_tiles, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE)  # fmt: skip
    at = partial + part * channels + channel
    tl.store(at, many, mask=exists)
    tl.store(at + parts * channels, mean, mask=exists)
    tl.store(at + 2 * parts * channels, squares.to(tl.float64), mask=exists)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_merge(
    partial, statistics, running_mean, running_var, tracked, channels, parts, count, eps, eps_low, momentum, momentum_low,
    PARTS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Merge the parts' moments, and move the running buffers."""
    channel = tl.program_id(0) * B + tl.arange(0, B)[None, :]
    part = tl.arange(0, PARTS)[:, None]
    exists = channel < channels
    inside = (part < parts) & exists
    at = partial + part * channels + channel
    many = tl.load(at, mask=inside, other=0.0)
    mean = tl.load(at + parts * channels, mask=inside, other=0.0)
    squares = tl.load(at + 2 * parts * channels, mask=inside, other=0.0)
    mean, squares = merge(many, mean, squares)
    finalize(statistics, running_mean, running_var, tracked, channel, exists, channels, mean, squares, count, eps, eps_low, momentum,
           momentum_low)  # fmt: skip


@triton.jit(do_not_specialize=_NUMBERS)
def forward_write(
    x, residual, y, weight, bias, statistics, rows, units, channels, column_tiles, tiles, each, UNIT: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr,
    ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write a part of the tiles, by statistics that are known."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    columns = units * UNIT
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    mean, inverse = saved_statistics(statistics, channel, exists, channels)
    mean_hi, scale, shift, _ = affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE)
    first = part * each
    write(x, residual, y, mean_hi, scale, shift, first, tl.minimum(first + each, tiles), program, rows, columns, channels,
          column_tiles, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE, ACTIVATION)  # fmt: skip
