"""Loops over columns, compiled by Numba: a table whose every row holds a value, or a few, of each channel.

Channels last, and (N, C): rows of C columns, of which several are taken as one wide row, so that a few channels fill a
vector too. And (N, C, P) with few positions P: rows of C · P columns. Sums are taken in float64, column by column, around
the first value of the column's channel.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from bnkit.kernels import bits
from bnkit.kernels.elements import elements, specialised


class ColumnLoops(NamedTuple):
    """The compiled loops for one kind of element and activation; see ``PlaneLoops`` for what they are given.

    ``sums``, ``affine``, ``backward_sums`` and ``backward`` work on a range of rows and may run side by side;
    ``settle`` and ``settle_backward`` stand between them.
    ``whole_forward`` and ``whole_backward`` are all of it for one thread. ``columns`` is a table (6, W) of what each column is
    computed with: the mean in two parts, scale, shift, and two terms of the backward pass.
    """

    sums: Any
    settle: Any
    affine: Any
    backward_sums: Any
    settle_backward: Any
    backward: Any
    spread: Any
    whole_forward: Any
    whole_backward: Any


# What these mean is filled in for each kind of element and activation, by `specialised`.
pointer = parameters = table = number = nothing = load = put = activate = through = adds = None


def sums(xa, offset, first, last, W, C, P, totals):
    """Add rows ``first`` to ``last`` of W columns, behind ``offset`` elements, to ``totals`` (2, ≥ W)."""
    x = carray(pointer(xa), offset + last * W)
    start = np.empty(W)
    for j in range(W):
        start[j] = np.float64(load(x[j % C if P == 1 else j // P * P]))
    total, squares = totals[0], totals[1]
    together = first + (last - first) // 4 * 4
    for row in range(first, together, 4):  # four rows for each time that the sums go through the registers
        begin = offset + row * W
        xs0, xs1 = x[begin : begin + W], x[begin + W : begin + 2 * W]
        xs2, xs3 = x[begin + 2 * W : begin + 3 * W], x[begin + 3 * W : begin + 4 * W]
        for j in range(W):
            origin = start[j]
            d0, d1 = np.float64(load(xs0[j])) - origin, np.float64(load(xs1[j])) - origin
            d2, d3 = np.float64(load(xs2[j])) - origin, np.float64(load(xs3[j])) - origin
            total[j] += (d0 + d1) + (d2 + d3)
            squares[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    for row in range(together, last):
        xs = x[offset + row * W : offset + row * W + W]
        for j in range(W):
            d = np.float64(load(xs[j])) - start[j]
            total[j] += d
            squares[j] += d * d


def spread(means, columns, W, C, P, wa, ba, statistics):
    """Fill ``means`` (W,) and ``columns`` (6, W) from the statistics of the channels."""
    weight, bias, known = carray(parameters(wa), C), carray(parameters(ba), C), carray(table(statistics), 6 * C)
    for j in range(W):
        c = j % C if P == 1 else j // P
        h = number(known[c])
        # The mean in two parts: rounded to float32, it would be off by more than a small deviation.
        lo = number(known[c] - h)
        means[j] = known[c]
        columns[0, j], columns[1, j] = h, lo if np.isfinite(lo) else nothing
        columns[2, j] = number(known[2 * C + c] * (weight[c] if wa != 0 else 1.0))
        columns[3, j] = number(bias[c]) if ba != 0 else nothing


def settle(xa, parts, columns, W, C, P, count, wa, ba, statistics, eps):
    """The statistics from the sums of all parts, (parts, 2, W), and ``columns`` from those."""
    x, known = carray(pointer(xa), C * P), carray(table(statistics), 6 * C)
    total, squares = np.zeros(C), np.zeros(C)
    for part in range(parts.shape[0]):
        for j in range(W):
            c = j % C if P == 1 else j // P
            total[c] += parts[part, 0, j]
            squares[c] += parts[part, 1, j]
    for c in range(C):
        m = total[c] / count
        v = squares[c] / count - m * m
        if v < 0.0:
            v = 0.0
        known[c], known[C + c] = np.float64(load(x[c * P])) + m, v
        known[2 * C + c] = 1.0 / np.sqrt(v + eps)
        known[3 * C + c] = v * (count / (count - 1.0))
    spread(np.empty(W), columns, W, C, P, wa, ba, statistics)


def affine(xa, ra, ya, offset, first, last, W, columns):
    """Write ``activation((x - mean) * rstd * gamma + beta + residual)`` for rows ``first`` to ``last``."""
    size = offset + last * W
    x, r, y = carray(pointer(xa), size), carray(pointer(ra), size), carray(pointer(ya), size)
    high, low, scale, shift = columns[0], columns[1], columns[2], columns[3]
    for row in range(first, last):
        begin = offset + row * W
        xs, rs, ys = x[begin : begin + W], r[begin : begin + W], y[begin : begin + W]
        if adds:
            for j in range(W):
                put(ys, j, activate((load(xs[j]) - high[j] - low[j]) * scale[j] + shift[j] + load(rs[j])))
        else:
            for j in range(W):
                put(ys, j, activate((load(xs[j]) - high[j] - low[j]) * scale[j] + shift[j]))


def backward_sums(xa, ga, ya, offset, first, last, W, means, columns, totals):
    """Add up, column by column, the gradients before the activation, alone and times (x - mean)."""
    size = offset + last * W
    x, g, y = carray(pointer(xa), size), carray(pointer(ga), size), carray(pointer(ya), size)
    scale, shift = columns[2], columns[3]
    total, products = totals[0], totals[1]
    together = first + (last - first) // 2 * 2
    for row in range(first, together, 2):
        begin = offset + row * W
        xs0, gs0, ys0 = x[begin : begin + W], g[begin : begin + W], y[begin : begin + W]
        begin += W
        xs1, gs1, ys1 = x[begin : begin + W], g[begin : begin + W], y[begin : begin + W]
        for j in range(W):
            origin, a, b = means[j], np.float64(scale[j]), np.float64(shift[j])
            d0, d1 = np.float64(load(xs0[j])) - origin, np.float64(load(xs1[j])) - origin
            z0, z1 = (load(ys0[j]), load(ys1[j])) if adds else (number(d0 * a + b), number(d1 * a + b))
            dz0, dz1 = np.float64(through(load(gs0[j]), z0)), np.float64(through(load(gs1[j]), z1))
            total[j] += dz0 + dz1
            products[j] += dz0 * d0 + dz1 * d1
    for row in range(together, last):
        begin = offset + row * W
        xs, gs, ys = x[begin : begin + W], g[begin : begin + W], y[begin : begin + W]
        for j in range(W):
            d = np.float64(load(xs[j])) - means[j]
            z = load(ys[j]) if adds else number(d * np.float64(scale[j]) + np.float64(shift[j]))
            dz = np.float64(through(load(gs[j]), z))
            total[j] += dz
            products[j] += dz * d


def settle_backward(parts, columns, W, C, P, count, statistics, frozen):
    """The gradients of gamma and beta from the sums of all parts, and the terms of ``columns`` from those."""
    known = carray(table(statistics), 6 * C)
    total, products = np.zeros(C), np.zeros(C)
    for part in range(parts.shape[0]):
        for j in range(W):
            c = j % C if P == 1 else j // P
            total[c] += parts[part, 0, j]
            products[c] += parts[part, 1, j]
    for c in range(C):
        rstd = known[2 * C + c]
        known[4 * C + c], known[5 * C + c] = products[c] * rstd, total[c]
    for j in range(W):
        c = j % C if P == 1 else j // P
        rstd = known[2 * C + c]
        columns[4, j] = number(0.0 if frozen else total[c] / count)
        columns[5, j] = number(0.0 if frozen else products[c] * rstd * rstd / count)


def backward(xa, ga, ya, dxa, dra, offset, first, last, W, columns):
    """Write the gradients of x (and of the residual) for rows ``first`` to ``last``."""
    size = offset + last * W
    x, g, y = carray(pointer(xa), size), carray(pointer(ga), size), carray(pointer(ya), size)
    dx, dr = carray(pointer(dxa), size), carray(pointer(dra), size)
    high, low, scale, shift, k0, k1 = columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
    for row in range(first, last):
        begin = offset + row * W
        xs, gs, ys = x[begin : begin + W], g[begin : begin + W], y[begin : begin + W]
        out, rest = dx[begin : begin + W], dr[begin : begin + W]
        for j in range(W):
            d = load(xs[j]) - high[j] - low[j]
            dz = through(load(gs[j]), load(ys[j]) if adds else d * scale[j] + shift[j])
            if adds:
                put(rest, j, dz)
            put(out, j, (dz - k0[j] - d * k1[j]) * scale[j])


def whole_forward(xa, ra, ya, size, W, row, C, P, count, wa, ba, statistics, eps, is_given):
    """All of the forward pass, for one thread; ``size`` elements in wide rows of W, what is left in rows of ``row``."""
    columns = np.empty((6, W), number)
    wide_rows = size // W
    rest = wide_rows * W
    rest_rows = (size - rest) // row
    if is_given:
        spread(np.empty(W), columns, W, C, P, wa, ba, statistics)
    else:
        parts = np.zeros((1, 2, W))
        sums(xa, 0, 0, wide_rows, W, C, P, parts[0])
        sums(xa, rest, 0, rest_rows, row, C, P, parts[0])
        settle(xa, parts, columns, W, C, P, count, wa, ba, statistics, eps)
    affine(xa, ra, ya, 0, 0, wide_rows, W, columns)
    affine(xa, ra, ya, rest, 0, rest_rows, row, columns)


def whole_backward(xa, ga, ya, dxa, dra, size, W, row, C, P, count, wa, ba, statistics, frozen):
    """All of the backward pass, for one thread."""
    columns, means, parts = np.empty((6, W), number), np.empty(W), np.zeros((1, 2, W))
    wide_rows = size // W
    rest = wide_rows * W
    rest_rows = (size - rest) // row
    spread(means, columns, W, C, P, wa, ba, statistics)
    backward_sums(xa, ga, ya, 0, 0, wide_rows, W, means, columns, parts[0])
    backward_sums(xa, ga, ya, rest, 0, rest_rows, row, means, columns, parts[0])
    settle_backward(parts, columns, W, C, P, count, statistics, frozen)
    backward(xa, ga, ya, dxa, dra, 0, 0, wide_rows, W, columns)
    backward(xa, ga, ya, dxa, dra, rest, 0, rest_rows, row, columns)


@cache
def column_loops(kind: str, activation: str | None, adds: bool, streams: bool, wide: bool) -> ColumnLoops:
    """The loops for elements of ``kind``; arguments as for ``plane_loops``."""
    blocks = elements(kind, activation, streams=streams, wide=wide)
    names = {**blocks._asdict(), "adds": adds, "table": bits.pointer[np.float64], "nothing": blocks.number(0)}
    variant = f"{kind}_{activation}_{adds:d}{streams:d}{wide:d}"
    for loop in (spread, sums, settle, affine, backward_sums, settle_backward, backward, whole_forward, whole_backward):
        names[loop.__name__] = specialised(loop, names, variant)
    return ColumnLoops(**{field: names[field] for field in ColumnLoops._fields})
