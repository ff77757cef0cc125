"""The backward pass in Triton: in one kernel if one program can process a whole channel, otherwise in three.

The activation's argument is recomputed from x, and from the residual if there is one, exactly as in the forward pass, so that it
need not be stored.

The pointers, besides those of ``forward``, which are only read here:

- ``gradients``: of the output; shape, strides and dtype of ``x``. ``dx``, ``dr``: the same, for x and the residual; written.
- ``residual``, ``dr``: None unless an activation follows a residual; otherwise the gradient of the residual is ``gradients``.
- ``by_parameter``: (2, C), contiguous; the dtype of gamma and beta: their gradients.
- ``partial``: (2, parts, C), contiguous, (parts * C, C, 1); float64: the sums of each part of the tiles, of the gradients before the
  activation and of their products with (x - mean).
- ``factors``: (2, C), contiguous; ``ACC_DTYPE``: ``c0`` and ``c1`` of ``dx = dz * scale + (x - mean_hi) * c1 + c0``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bnkit.kernels.gpu.device_functions import by_channel, channels_of, store
from bnkit.kernels.gpu.reductions import gradients_of_tile, products_of_tiles
from bnkit.kernels.gpu.statistics import backward_coefficients, saved_affine

_NUMBERS = ["rows", "units", "channels", "column_tiles", "tiles", "each", "parts", "count"]


@triton.jit
def write_tile(
    mask, dx, dr, off, gradient, counts, has_part, scale, c0, c1, offsets, inside, EVEN: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x, and of the residual if ``dr`` is given, for a tile."""
    if dr is not None:
        store(dr, offsets, gradient, inside, EVEN)
    own = gradient * scale
    result = tl.fma(off, c1, own + c0)
    if mask is not None:  # masked values were excluded from the statistics, and non-finite ones from x
        result = tl.where(counts, result, tl.where(has_part, own, 0.0))
    store(dx, offsets, result, inside, EVEN)


@triton.jit
def write_tiles(
    x, gradients, residual, mask, dx, dr, mean_hi, scale, shift, c0, c1, first, last, view, A: tl.constexpr,
    B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write the gradients for the tiles from ``first`` up to ``last``, exclusive, in reverse order."""
    for step in range(first, last):
        offsets, inside, off, gradient, counts, has_part = gradients_of_tile(
            x, gradients, residual, mask, mean_hi, scale, shift, last - 1 - (step - first), view, A, B, BY_ROWS, EVEN, LARGE,
            ACC_DTYPE, ACTIVATION,
        )  # fmt: skip
        write_tile(mask, dx, dr, off, gradient, counts, has_part, scale, c0, c1, offsets, inside, EVEN)


@triton.jit(do_not_specialize=_NUMBERS)
def backward_one_launch(
    x, gradients, residual, dx, dr, weight, bias, mask, statistics, by_parameter, rows, units, channels, column_tiles,
    tiles, count, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr,
    LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr, IS_GIVEN: tl.constexpr,
    IN_REGISTERS: tl.constexpr,
):  # fmt: skip
    """Each program processes whole channels: it holds all their values (``IN_REGISTERS``), or reads them twice."""
    program = tl.program_id(0)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    mean_hi, scale, shift, mean_lo, inverse = saved_affine(
        statistics, weight, bias, channel, exists, channels, ACC_DTYPE
    )
    if IN_REGISTERS:
        offsets, inside, off, gradient, counts, has_part = gradients_of_tile(
            x, gradients, residual, mask, mean_hi, scale, shift, 0, view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE, ACTIVATION
        )  # fmt: skip
        own = tl.where(inside & has_part, gradient, 0.0)
        total, with_x = by_channel(own, BY_ROWS), by_channel(own * off, BY_ROWS)
    else:
        total, with_x = products_of_tiles(x, gradients, residual, mask, mean_hi, scale, shift, 0, tiles, view, A, B, BY_ROWS,
                                          EVEN, LARGE, ACC_DTYPE, ACTIVATION)  # fmt: skip
    c0, c1 = backward_coefficients(
        total, with_x, inverse, mean_lo, weight, by_parameter, channel, exists, channels, count, IS_GIVEN, ACC_DTYPE
    )
    if IN_REGISTERS:
        write_tile(mask, dx, dr, off, gradient, counts, has_part, scale, c0, c1, offsets, inside, EVEN)
    else:
        write_tiles(x, gradients, residual, mask, dx, dr, mean_hi, scale, shift, c0, c1, 0, tiles, view, A, B, BY_ROWS, EVEN,
                    LARGE, ACC_DTYPE, ACTIVATION)  # fmt: skip


@triton.jit(do_not_specialize=_NUMBERS)
def backward_sums(
    x, gradients, residual, weight, bias, mask, statistics, partial, rows, units, channels, column_tiles, tiles, each,
    parts, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr,
    LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The sums of a part of the tiles: (2, parts, C) float64, of the gradients and of their products with x."""
    program, part = tl.program_id(0), tl.program_id(1)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    mean_hi, scale, shift, _, _ = saved_affine(statistics, weight, bias, channel, exists, channels, ACC_DTYPE)
    first = part * each
    total, with_x = products_of_tiles(x, gradients, residual, mask, mean_hi, scale, shift, first,
                                      tl.minimum(first + each, tiles), view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE,
                                      ACTIVATION)  # fmt: skip
    at = partial + part * channels + channel
    tl.store(at, total.to(tl.float64), mask=exists)
    tl.store(at + parts * channels, with_x.to(tl.float64), mask=exists)


@triton.jit(do_not_specialize=_NUMBERS)
def backward_merge(
    partial, statistics, weight, by_parameter, factors, channels, parts, count, PARTS: tl.constexpr, B: tl.constexpr,
    ACC_DTYPE: tl.constexpr, IS_GIVEN: tl.constexpr,
):  # fmt: skip
    """Merge the parts' sums: the gradients of gamma and beta, and the (2, C) factors of the correction of the others."""
    channel = tl.program_id(0) * B + tl.arange(0, B)[None, :]
    part = tl.arange(0, PARTS)[:, None]
    exists = channel < channels
    inside = (part < parts) & exists
    at = partial + part * channels + channel
    total = tl.sum(tl.load(at, mask=inside, other=0.0), 0, keep_dims=True)
    with_x = tl.sum(tl.load(at + parts * channels, mask=inside, other=0.0), 0, keep_dims=True)
    _, _, _, mean_lo, inverse = saved_affine(statistics, weight, None, channel, exists, channels, ACC_DTYPE)
    c0, c1 = backward_coefficients(
        total, with_x, inverse, mean_lo, weight, by_parameter, channel, exists, channels, count, IS_GIVEN, ACC_DTYPE
    )
    tl.store(factors + channel, c0, mask=exists)
    tl.store(factors + channels + channel, c1, mask=exists)


@triton.jit(do_not_specialize=_NUMBERS)
def backward_write(
    x, gradients, residual, dx, dr, weight, bias, mask, statistics, factors, rows, units, channels, column_tiles, tiles,
    each, UNIT: tl.constexpr, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr,
    LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a part of the tiles."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    part = tl.num_programs(1) - 1 - tl.program_id(1)
    view = (program, rows, units * UNIT, channels, column_tiles)
    channel = channels_of(program, B, BY_ROWS)
    exists = channel < channels
    mean_hi, scale, shift, _, _ = saved_affine(statistics, weight, bias, channel, exists, channels, ACC_DTYPE)
    c0 = tl.load(factors + channel, mask=exists, other=0.0)
    c1 = tl.load(factors + channels + channel, mask=exists, other=0.0)
    first = part * each
    write_tiles(x, gradients, residual, mask, dx, dr, mean_hi, scale, shift, c0, c1, first, tl.minimum(first + each, tiles), view,
                A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE, ACTIVATION)  # fmt: skip
