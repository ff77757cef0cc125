"""The forward pass in Triton: in one kernel if one program can process a whole channel, otherwise in three.

Kernels that write visit the tiles in the reverse order of the kernel that read them: the last ones are still in the cache.

The pointers, which have the same meaning in every kernel: shape, strides, dtype. C channels; "contiguous" is (C, 1) for two dimensions.

- ``x``, ``residual``, ``y``: (N, C, *), all contiguous or all channels last; the input's dtype. Without a residual, None.
- ``weight``, ``bias``: gamma and beta, (C,), stride 1; float32, or float64 for float64 inputs. None for 1 and 0.
- ``mask``: (N, 1, *), contiguous; uint8, 0 for values excluded from the statistics. None without a mask.
- ``statistics``: (6, C), contiguous; float64: mean, biased variance, 1 / sqrt(variance + eps), unbiased variance; two rows are
  unused. Written by the kernels, but only read by ``forward_write``.
- ``running_mean``, ``running_var``: (C,), stride 1; float32. Read and written; None if no buffer is updated.
- ``tracked``: (), int64, counts the batches. None without a counter.
- ``partial``: (3, parts, C), contiguous, (parts * C, C, 1); float64: count, mean and squared deviations of each part of the tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bnkit.kernels.gpu.device_functions import activate, channels_of, load, load_mask, store, tile_offsets
from bnkit.kernels.gpu.reductions import moments_of_tile, moments_of_tiles
from bnkit.kernels.gpu.statistics import affine, finalize, merge, saved_affine

# Arguments that Triton would otherwise specialise for values that are 1 or divisible by 16.
_NUMBERS = ["rows", "units", "channels", "column_tiles", "tiles", "each", "parts", "count"]


@triton.jit
def write_tile(
    residual, y, off, scale, shift, offsets, inside, EVEN: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write the result for a tile, from its x - mean."""
    z = tl.fma(off, scale, shift)
    if residual is not None:
        z += load(residual, offsets, inside, EVEN, ACC_DTYPE)
    store(y, offsets, activate(z, ACTIVATION), inside, EVEN)


@triton.jit
def write_tiles(
    x, residual, y, mean_hi, scale, shift, first, last, view, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr,
    EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write the result for the tiles from ``first`` up to ``last``, exclusive, in reverse order."""
    for step in range(first, last):
        offsets, _, inside = tile_offsets(last - 1 - (step - first), view, A, B, BY_ROWS, LARGE)
        off = load(x, offsets, inside, EVEN, ACC_DTYPE) - mean_hi
        write_tile(residual, y, off, scale, shift, offsets, inside, EVEN, ACC_DTYPE, ACTIVATION)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_one_launch(
    x, residual, y, weight, bias, mask, statistics, running_mean, running_var, tracked, rows, units, channels, column_tiles,
    tiles, count, eps, eps_low, momentum, momentum_low, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
    IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Each program processes whole channels.

    Either it holds all their values, so that x is read once (``IN_REGISTERS``, one tile); or it reads them twice, the second
    time from the cache.
    """
    program = tl.program_id(0)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    if IN_REGISTERS:
        offsets, positions, inside = tile_offsets(0, view, A, B, BY_ROWS, LARGE)
        value = load(x, offsets, inside, EVEN, ACC_DTYPE)
        _, mean, squares = moments_of_tile(value, load_mask(mask, positions, inside), BY_ROWS)
    else:
        _, mean, squares = moments_of_tiles(x, mask, 0, tiles, view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE)
    inverse = finalize(statistics, running_mean, running_var, tracked, channel, exists, channels, mean, squares, count, eps, eps_low,
                     momentum, momentum_low)  # fmt: skip
    mean_hi, scale, shift, _ = affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE)
    if IN_REGISTERS:
        write_tile(residual, y, value - mean_hi, scale, shift, offsets, inside, EVEN, ACC_DTYPE, ACTIVATION)
    else:
        write_tiles(
            x, residual, y, mean_hi, scale, shift, 0, tiles, view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE, ACTIVATION
        )


@triton.jit(do_not_specialize=_NUMBERS)
def forward_sums(
    x, mask, partial, rows, units, channels, column_tiles, tiles, each, parts, UNIT: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr,
):  # fmt: skip
    """The moments of a part of the tiles: (3, parts, C) float64, count, mean and squared deviations."""
    program, part = tl.program_id(0), tl.program_id(1)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    first = part * each
    many, mean, squares = moments_of_tiles(
        x, mask, first, tl.minimum(first + each, tiles), view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE
    )
    at = partial + part * channels + channel
    tl.store(at, many, mask=exists)
    tl.store(at + parts * channels, mean, mask=exists)
    tl.store(at + 2 * parts * channels, squares.to(tl.float64), mask=exists)


@triton.jit(do_not_specialize=_NUMBERS)
def forward_merge(
    partial, statistics, running_mean, running_var, tracked, channels, parts, count, eps, eps_low, momentum, momentum_low,
    PARTS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Merge the parts' moments, and update the running buffers."""
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
    """Write a part of the tiles, with known statistics."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    mean_hi, scale, shift, _, _ = saved_affine(statistics, weight, bias, channel, exists, channels, ACC_DTYPE)
    first = part * each
    write_tiles(x, residual, y, mean_hi, scale, shift, first, tl.minimum(first + each, tiles), view, A, B, BY_ROWS, EVEN, LARGE,
                ACC_DTYPE, ACTIVATION)  # fmt: skip
