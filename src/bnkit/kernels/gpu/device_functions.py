"""Building blocks of the Triton kernels: the addresses of tiles, sums by channel, activations.

A tensor is treated as rows of adjacent elements: (N, C, *) contiguous, channel by channel, as N rows
of P positions ("planes"); channels last, or (N, C), as N·P rows of C channels ("rows"). A tile has A rows and B columns. Values
per channel are (1, 1) for planes, with one channel per tile, and (1, B) for rows, so that the same code works for both.

The position of a program's tiles is one value, ``view``: the program's number along the channels, the numbers of rows, of columns
and of channels, and the number of tiles side by side.
"""

from __future__ import annotations

import triton
import triton.language as tl

LEAKY_SLOPE = tl.constexpr(0.01)  # of torch.nn.LeakyReLU


@triton.jit
def channels_of(program, B: tl.constexpr, BY_ROWS: tl.constexpr):
    """The channels of a program."""
    if BY_ROWS:
        channel = program * B + tl.arange(0, B)[None, :]
    else:
        channel = program + tl.zeros([1, 1], tl.int32)
    return channel


@triton.jit
def tile_offsets(t, view, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr, LARGE: tl.constexpr):
    """Tile ``t``: its offsets from the tensor's start, the indices of its positions in the batch, and which elements are inside."""
    program, rows, columns, channels, column_tiles = view
    if LARGE:  # more than 2**31 elements
        t = tl.cast(t, tl.int64)
        program = tl.cast(program, tl.int64)
    if BY_ROWS:
        row = t * A + tl.arange(0, A)[:, None]
        column = program * B + tl.arange(0, B)[None, :]
        offsets = row * columns + column
        positions = row + tl.zeros_like(column)
    else:
        row = (t // column_tiles) * A + tl.arange(0, A)[:, None]
        column = (t % column_tiles) * B + tl.arange(0, B)[None, :]
        offsets = row * (columns * channels) + (program * columns + column)
        positions = row * columns + column
    return offsets, positions, (row < rows) & (column < columns)


@triton.jit
def size_of(t, view, A: tl.constexpr, B: tl.constexpr, BY_ROWS: tl.constexpr):
    """The number of values per channel in tile ``t``."""
    _, rows, columns, _, column_tiles = view
    if BY_ROWS:
        size = tl.minimum(A, rows - tl.cast(t, tl.int64) * A)
    else:
        size = tl.minimum(A, rows - (t // column_tiles) * A) * tl.minimum(B, columns - (t % column_tiles) * B)
    return tl.cast(size, tl.float32)


@triton.jit
def load(tensor, offsets, inside, EVEN: tl.constexpr, ACC_DTYPE: tl.constexpr):
    """The elements as numbers; 0 for those outside."""
    if EVEN:
        elements = tl.load(tensor + offsets)
    else:
        elements = tl.load(tensor + offsets, mask=inside, other=0.0)
    return elements.to(ACC_DTYPE)


@triton.jit
def store(tensor, offsets, values, inside, EVEN: tl.constexpr):
    """Store numbers as elements."""
    if EVEN:
        tl.store(tensor + offsets, values.to(tensor.dtype.element_ty))
    else:
        tl.store(tensor + offsets, values.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def load_mask(mask, positions, inside):
    """Which of the elements count in the statistics."""
    if mask is not None:
        inside = inside & (tl.load(mask + positions, mask=inside, other=0) != 0)
    return inside


@triton.jit
def is_finite(values):
    """Neither inf nor NaN."""
    return tl.abs(values) < float("inf")


@triton.jit
def by_channel(values, BY_ROWS: tl.constexpr):
    """The sums of a tile's elements, channel by channel."""
    totals = tl.sum(values, 0, keep_dims=True)
    if not BY_ROWS:
        totals = tl.sum(totals, 1, keep_dims=True)
    return totals


@triton.jit
def parameter(pointer, channel, exists, otherwise):
    """One of gamma and beta in float64; ``otherwise`` without one."""
    values = tl.zeros_like(channel).to(tl.float64) + otherwise
    if pointer is not None:
        values = tl.load(pointer + channel, mask=exists, other=0.0).to(tl.float64)
    return values


@triton.jit
def tanh(z):
    """Hyperbolic tangent with an error of at most the rounding error of 1, which is negligible for outputs of size 1."""
    shrunk = tl.exp(-2.0 * tl.abs(z))
    size = (1.0 - shrunk) / (1.0 + shrunk)
    return tl.where(z < 0, -size, size)


@triton.jit
def logistic(z):
    """1 / (1 + exp(-z)) without overflow."""
    shrunk = tl.exp(-tl.abs(z))
    return tl.where(z < 0, shrunk, 1.0) / (1.0 + shrunk)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The activation; keeps NaN."""
    if ACTIVATION == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z <= 0, z * LEAKY_SLOPE, z)
    elif ACTIVATION == "relu6":
        z = tl.where(z <= 0, 0.0, z)
        z = tl.where(z >= 6, 6.0, z)
    elif ACTIVATION == "sigmoid":
        z = logistic(z)
    elif ACTIVATION == "silu":
        z = z * logistic(z)
    elif ACTIVATION == "tanh":
        z = tanh(z)
    elif ACTIVATION == "gelu":
        z = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    return z


@triton.jit
def activation_backward(gradient, z, ACTIVATION: tl.constexpr):
    """The gradient before the activation, from the gradient after it and the activation's argument."""
    if ACTIVATION == "relu":
        gradient = tl.where(z <= 0, 0.0, gradient)
    elif ACTIVATION == "leaky_relu":
        gradient = tl.where(z <= 0, gradient * LEAKY_SLOPE, gradient)
    elif ACTIVATION == "relu6":
        gradient = tl.where(z <= 0, 0.0, gradient)
        gradient = tl.where(z >= 6, 0.0, gradient)
    elif ACTIVATION == "sigmoid":
        value = logistic(z)
        gradient = gradient * (value * (1.0 - value))
    elif ACTIVATION == "silu":
        value = logistic(z)
        gradient = gradient * (value * (1.0 + z * (1.0 - value)))
    elif ACTIVATION == "tanh":
        value = tanh(z)
        gradient = gradient * (1.0 - value * value)
    elif ACTIVATION == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        gradient = gradient * (0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * density)
    return gradient
