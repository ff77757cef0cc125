"""Sums over the values of a channel, in Triton: over one tile in registers, or over many tiles in a loop.

Each position of a tile accumulates the values at its position, minus the mean of the first tile, and their squares. This avoids
cancellation for every mean. The sums of the positions are then added in a fixed order.

The pointers are those of ``forward`` and ``backward``, whose docstrings have their shapes, strides and dtypes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bnkit.kernels.gpu.device_functions import (
    activation_backward,
    by_channel,
    is_finite,
    load,
    load_mask,
    size_of,
    tile_offsets,
)


@triton.jit
def moments_of_tile(value, counts, BY_ROWS: tl.constexpr):
    """The number of counted values, their mean in float64, and the sum of their squared deviations."""
    value = tl.where(counts, value, 0.0)
    many = by_channel(counts.to(value.dtype), BY_ROWS)
    some = tl.where(many > 0, many, 1.0)
    anchor = by_channel(value / some, BY_ROWS)
    mean = by_channel(tl.where(counts, value - anchor, 0.0), BY_ROWS) / some  # corrects the rounding error
    centred = tl.where(counts, (value - anchor) - mean, 0.0)
    return many.to(tl.float64), anchor.to(tl.float64) + mean.to(tl.float64), by_channel(centred * centred, BY_ROWS)


@triton.jit
def moments_of_tiles(
    x, mask, first, last, view, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, EVEN: tl.constexpr,
    LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr,
):  # fmt: skip
    """The same for the tiles from ``first`` up to ``last``, exclusive."""
    # Relative to the mean of the first tile; with a mask, which may exclude all of it, to the mean of all tiles.
    total = tl.zeros([A, B], ACC_DTYPE)
    places = tl.zeros([A, B], ACC_DTYPE)
    some = tl.minimum(first + 1, last)
    if mask is not None:
        some = last
    for t in range(first, some):
        offsets, positions, inside = tile_offsets(t, view, A, B, BY_ROWS, LARGE)
        counts = load_mask(mask, positions, inside)
        total += tl.where(counts, load(x, offsets, inside, EVEN, ACC_DTYPE), 0.0)
        places += counts.to(ACC_DTYPE)
    many = by_channel(places, BY_ROWS)
    start = by_channel(total, BY_ROWS) / tl.where(many > 0, many, 1.0)

    total = tl.zeros([A, B], ACC_DTYPE)
    squares = tl.zeros([A, B], ACC_DTYPE)
    count = 0.0
    for t in range(first, last):
        offsets, positions, inside = tile_offsets(t, view, A, B, BY_ROWS, LARGE)
        off = load(x, offsets, inside, EVEN, ACC_DTYPE) - start
        if mask is not None:
            off = tl.where(load_mask(mask, positions, inside), off, 0.0)
        elif not EVEN:
            off = tl.where(inside, off, 0.0)
        total += off
        squares += off * off
        count += size_of(t, view, A, B, BY_ROWS)
    if mask is None:
        many = tl.zeros_like(start) + count
    sums = by_channel(total, BY_ROWS).to(tl.float64)
    many = many.to(tl.float64)
    off = sums / tl.where(many > 0, many, 1.0)
    spread = by_channel(squares, BY_ROWS).to(tl.float64) - sums * off
    spread = tl.where(spread < 0, 0.0, spread)  # NaN stays
    return many, start.to(tl.float64) + off, spread


@triton.jit
def gradients_of_tile(
    x, gradients, residual, mask, mean_hi, scale, shift, t, view, A: tl.constexpr, B: tl.constexpr,
    BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Tile ``t`` of the backward pass: the centred values, and the gradients before the activation.

    Returns:
        The offsets of the tile, which elements are inside, x - mean, the gradients, which values count in the statistics, and
        which are part of the sums: with a mask, also finite values that do not count. (0 times NaN would be NaN.)
    """
    offsets, positions, inside = tile_offsets(t, view, A, B, BY_ROWS, LARGE)
    value = load(x, offsets, inside, EVEN, ACC_DTYPE)
    gradient = load(gradients, offsets, inside, EVEN, ACC_DTYPE)  # 0 outside
    off = value - mean_hi
    if ACTIVATION is not None:
        z = tl.fma(off, scale, shift)
        if residual is not None:
            z += load(residual, offsets, inside, EVEN, ACC_DTYPE)
        gradient = activation_backward(gradient, z, ACTIVATION)
    counts, has_part = inside, inside
    if mask is not None:
        counts = load_mask(mask, positions, inside)
        has_part = counts | is_finite(value)
        off = tl.where(has_part, off, 0.0)
    return offsets, inside, off, gradient, counts, has_part


@triton.jit
def products_of_tiles(
    x, gradients, residual, mask, mean_hi, scale, shift, first, last, view, A: tl.constexpr, B: tl.constexpr,
    BY_ROWS: tl.constexpr, EVEN: tl.constexpr, LARGE: tl.constexpr, ACC_DTYPE: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """The sums of the gradients, and of their products with the centred values, in the tiles ``first`` up to ``last``."""
    total = tl.zeros([A, B], ACC_DTYPE)
    with_x = tl.zeros([A, B], ACC_DTYPE)
    for t in range(first, last):
        _, _, off, gradient, _, has_part = gradients_of_tile(
            x, gradients, residual, mask, mean_hi, scale, shift, t, view, A, B, BY_ROWS, EVEN, LARGE, ACC_DTYPE, ACTIVATION
        )  # fmt: skip
        if mask is not None:
            gradient = tl.where(has_part, gradient, 0.0)
        total += gradient
        with_x += gradient * off
    return by_channel(total, BY_ROWS), by_channel(with_x, BY_ROWS)
