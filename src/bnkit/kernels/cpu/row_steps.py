"""What the loops over columns are made of; see ``rows``.

Sums are taken column by column around the mean of four values of the channel: some rows in the arithmetic of the elements,
float32 mostly, and those added up in float64. Where the guess was bad, it shows, and the channel is done again in float64.
"""

from __future__ import annotations

import numpy as np

from bnkit.kernels.cpu import loop_call
from bnkit.kernels.cpu.intrinsics import behind, get, put

# What these mean is filled in for each kind of element and activation.
parameters = number = nothing = load = save = activate = through = adds = sees = apart = None

TOGETHER = 32  # rows between two additions in float64
LOT = 65536


def guess(x, stride, rows, C, P, first, last, start, W):
    """Fill ``start`` (W,) with about the mean of each column's channel: from ``first`` to ``last``, P columns each, in turn."""
    quarter, half = number(0.25), rows // 2
    for c in range(first, last):
        xs, places = behind(x, c * P), behind(start, (c - first) * P)
        some = load(xs, 0) * quarter + load(xs, half // 2 * stride) * quarter
        some += load(xs, half * stride) * quarter + load(xs, (half + half // 2) * stride) * quarter
        for i in range(P):
            put(places, i, some)
    for j in range((last - first) * P, W):  # what stands there already, from the beginning
        put(start, j, get(start, j - (last - first) * P))


def add_up(x, stride, first, last, W, start, sums, room):
    """Add rows ``first`` to ``last`` of W columns to ``sums`` (2, W); ``room`` is (2, W) to work in."""
    total, squares = room, behind(room, W)
    for piece in range(first, last, TOGETHER):
        end = min(piece + TOGETHER, last)
        for j in range(W):
            put(total, j, nothing)
            put(squares, j, nothing)
        fours = piece + (end - piece) // 4 * 4
        for row in range(piece, fours, 4):  # four rows for each time that the sums go through the registers
            a = behind(x, row * stride)
            b, c, d = behind(a, stride), behind(a, 2 * stride), behind(a, 3 * stride)
            for j in range(W):
                origin = get(start, j)
                p, q, r, s = load(a, j) - origin, load(b, j) - origin, load(c, j) - origin, load(d, j) - origin
                put(total, j, get(total, j) + ((p + q) + (r + s)))
                put(squares, j, get(squares, j) + ((p * p + q * q) + (r * r + s * s)))
        for row in range(fours, end):
            a = behind(x, row * stride)
            for j in range(W):
                p = load(a, j) - get(start, j)
                put(total, j, get(total, j) + p)
                put(squares, j, get(squares, j) + p * p)
        for j in range(W):
            put(sums, j, get(sums, j) + get(total, j))
            put(sums, W + j, get(sums, W + j) + get(squares, j))


def gather(sums, P, first, last, W, totals):
    """Add to the channels' totals the sums of their columns."""
    for turn in range(0, W, (last - first) * P):
        for c in range(first, last):
            its, total = behind(sums, turn + (c - first) * P), 0.0
            for i in range(P):
                total += get(its, i)
            put(totals, c, get(totals, c) + total)


def settle(x, stride, rows, C, P, first, last, sums, start, W, count, eps, known, totals):
    """The statistics of channels ``first`` to ``last`` from the sums over their columns."""
    all_squares = behind(totals, C)
    for c in range(first, last):
        put(totals, c, 0.0)
        put(all_squares, c, 0.0)
    gather(sums, P, first, last, W, totals)
    gather(behind(sums, W), P, first, last, W, all_squares)
    for c in range(first, last):
        m, squares = get(totals, c) / count, get(all_squares, c)
        v = squares / count - m * m
        mean = m + np.float64(get(start, (c - first) * P))
        # Further off than four deviations, float32 would lose more than four bits of the squares; and it may overflow.
        if not (m * m <= 16.0 * v or squares == 0.0) or not abs(v) < np.inf:
            mean = v = 0.0
            for row in range(rows):
                for i in range(P):
                    mean += np.float64(load(x, row * stride + c * P + i))
            mean /= count
            for row in range(rows):
                for i in range(P):
                    d = np.float64(load(x, row * stride + c * P + i)) - mean
                    v += d * d
            v /= count
        v = max(v, 0.0)
        put(known, c, mean)
        put(known, C + c, v)
        put(known, 2 * C + c, 1.0 / np.sqrt(v + eps))
        put(known, 3 * C + c, v * (count / (count - 1.0)))


def spread(columns, W, C, P, first, last, weight, bias, known):
    """Fill the first four of ``columns`` (6, W): the mean in two parts, scale and shift, from the channels' statistics."""
    for c in range(first, last):
        high = number(get(known, c))
        # The mean in two parts: rounded to float32, it would be off by more than a small deviation.
        low = number(get(known, c) - high)
        if not abs(low) < np.inf:
            low = nothing
        scale = number(get(known, 2 * C + c) * (get(parameters(weight), c) if weight != 0 else 1.0))
        shift = number(get(parameters(bias), c)) if bias != 0 else nothing
        for turn in range((c - first) * P, W, (last - first) * P):
            for j in range(turn, turn + P):
                put(columns, j, high)
                put(columns, W + j, low)
                put(columns, 2 * W + j, scale)
                put(columns, 3 * W + j, shift)


def write(x, r, y, stride, first, last, W, columns):
    """Write ``activation((x - mean) * rstd * gamma + beta + residual)``, the last lots of rows first: they are in the cache."""
    high, low, scale, shift = columns, behind(columns, W), behind(columns, 2 * W), behind(columns, 3 * W)
    lot = max(LOT // W, 1)
    for piece in range((last - first - 1) // lot, -1, -1):
        begin = first + piece * lot
        for row in range(begin, min(begin + lot, last)):
            xs, rs, ys = behind(x, row * stride), behind(r, row * stride), behind(y, row * stride)
            for j in range(W):
                z = (load(xs, j) - get(high, j) - get(low, j)) * get(scale, j) + get(shift, j)
                if adds:
                    z += load(rs, j)
                save(ys, j, activate(z))


def add_up_back(x, g, y, stride, first, last, W, columns, sums, room):
    """Add up, column by column, the gradients before the activation, alone and times (x - mean)."""
    high, low, scale, shift = columns, behind(columns, W), behind(columns, 2 * W), behind(columns, 3 * W)
    total, with_x = room, behind(room, W)
    for piece in range(first, last, TOGETHER):
        end = min(piece + TOGETHER, last)
        for j in range(W):
            put(total, j, nothing)
            put(with_x, j, nothing)
        pairs = piece + (end - piece) // 2 * 2
        for row in range(piece, pairs, 2):
            xs, gs, ys = behind(x, row * stride), behind(g, row * stride), behind(y, row * stride)
            xt, gt, yt = behind(xs, stride), behind(gs, stride), behind(ys, stride)
            for j in range(W):
                h, o, a, b = get(high, j), get(low, j), get(scale, j), get(shift, j)
                d, e = load(xs, j) - h - o, load(xt, j) - h - o
                dz = through(load(gs, j), load(ys, j) if sees else d * a + b)
                ez = through(load(gt, j), load(yt, j) if sees else e * a + b)
                put(total, j, get(total, j) + (dz + ez))
                put(with_x, j, get(with_x, j) + (dz * d + ez * e))
        for row in range(pairs, end):
            xs, gs, ys = behind(x, row * stride), behind(g, row * stride), behind(y, row * stride)
            for j in range(W):
                d = load(xs, j) - get(high, j) - get(low, j)
                dz = through(load(gs, j), load(ys, j) if sees else d * get(scale, j) + get(shift, j))
                put(total, j, get(total, j) + dz)
                put(with_x, j, get(with_x, j) + dz * d)
        for j in range(W):
            put(sums, j, get(sums, j) + get(total, j))
            put(sums, W + j, get(sums, W + j) + get(with_x, j))


def settle_back(C, P, first, last, sums, W, known, by_gamma):
    """The gradients of gamma and beta from the sums over the columns."""
    by_beta = behind(by_gamma, C)
    for c in range(first, last):
        put(by_gamma, c, 0.0)
        put(by_beta, c, 0.0)
    gather(sums, P, first, last, W, by_beta)
    gather(behind(sums, W), P, first, last, W, by_gamma)
    for c in range(first, last):
        put(by_gamma, c, get(by_gamma, c) * get(known, 2 * C + c))


def spread_back(columns, W, C, P, first, last, count, mode, known, by_gamma):
    """Fill the last two of ``columns``: the terms of the backward pass, from the gradients of gamma and beta; or those given."""
    for c in range(first, last):
        k0 = k1 = 0.0
        if mode == loop_call.OWN:
            k0 = get(by_gamma, C + c) / count
            k1 = get(by_gamma, c) * get(known, 2 * C + c) / count
        if mode == loop_call.SECOND_HALF:
            k0, k1 = get(by_gamma, C + c), get(by_gamma, c)
        for turn in range((c - first) * P, W, (last - first) * P):
            for j in range(turn, turn + P):
                put(columns, 4 * W + j, number(k0))
                put(columns, 5 * W + j, number(k1))


def write_back(x, g, y, dx, dr, stride, first, last, W, columns):
    """Write the gradients of x (and of the residual), the last lots of rows first."""
    high, low, scale, shift = columns, behind(columns, W), behind(columns, 2 * W), behind(columns, 3 * W)
    k0, k1 = behind(columns, 4 * W), behind(columns, 5 * W)
    lot = max(LOT // W, 1)
    for piece in range((last - first - 1) // lot, -1, -1):
        begin = first + piece * lot
        for row in range(begin, min(begin + lot, last)):
            xs, gs, ys = behind(x, row * stride), behind(g, row * stride), behind(y, row * stride)
            out, rest = behind(dx, row * stride), behind(dr, row * stride)
            for j in range(W):
                d = load(xs, j) - get(high, j) - get(low, j)
                dz = through(load(gs, j), load(ys, j) if sees else d * get(scale, j) + get(shift, j))
                if adds:
                    save(rest, j, dz)
                if apart:
                    save(out, j, dz * get(scale, j) - get(k0, j) - d * get(k1, j))
                else:
                    save(out, j, (dz - get(k0, j) - d * get(k1, j)) * get(scale, j))


PARTS = (guess, add_up, gather, settle, spread, write, add_up_back, settle_back, spread_back, write_back)
