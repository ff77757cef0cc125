"""Loops over planes, compiled by Numba: a tensor (N, C, P) whose P positions of a channel lie next to each other.

A channel is read twice, the second time from the cache where it fits. Sums are taken in float64 around the first value of
the channel, so that nothing cancels: that value is no further from the mean than n times the variance, whatever the data.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from bnkit.kernels import bits
from bnkit.kernels.elements import elements, specialised


class PlaneLoops(NamedTuple):
    """The compiled loops for one kind of element and activation.

    Tensors are given by the addresses of their first elements. ``statistics`` is a table of float64, (6, C): mean,
    biased variance, rstd = 1 / sqrt(variance + eps), unbiased variance, and the gradients of gamma and beta. The
    addresses ``wa`` and ``ba`` are those of gamma and beta, or 0 for 1 and 0.
    """

    forward: Any
    backward: Any
    affine: Any


# What these mean is filled in for each kind of element and activation, by `specialised`.
pointer = parameters = table = number = nothing = load = put = activate = through = adds = None


def affine(xa, ra, ya, N, C, P, first, last, wa, ba, statistics):
    """Write ``activation((x - mean) * rstd * gamma + beta + residual)`` for channels ``first`` to ``last``."""
    x, r, y = carray(pointer(xa), N * C * P), carray(pointer(ra), N * C * P), carray(pointer(ya), N * C * P)
    weight, bias, known = carray(parameters(wa), C), carray(parameters(ba), C), carray(table(statistics), 6 * C)
    for c in range(first, last):
        h = number(known[c])
        # The mean in two parts: rounded to float32, it would be off by more than a small deviation.
        lo = number(known[c] - h)
        if not np.isfinite(lo):
            lo = nothing
        a = number(known[2 * C + c] * (weight[c] if wa != 0 else 1.0))
        b = number(bias[c]) if ba != 0 else nothing
        for n in range(N):
            begin = (n * C + c) * P
            xs, ys = x[begin : begin + P], y[begin : begin + P]
            if adds:
                rs = r[begin : begin + P]
                for i in range(P):
                    put(ys, i, activate((load(xs[i]) - h - lo) * a + b + load(rs[i])))
            else:
                for i in range(P):
                    put(ys, i, activate((load(xs[i]) - h - lo) * a + b))


def forward(xa, ra, ya, N, C, P, first, last, wa, ba, statistics, eps):
    """Take the statistics of channels ``first`` to ``last``, and write what ``affine`` makes of them."""
    x, known = carray(pointer(xa), N * C * P), carray(table(statistics), 6 * C)
    count = N * P
    for c in range(first, last):
        start = np.float64(load(x[c * P]))
        total = squares = 0.0
        for n in range(N):
            xs = x[(n * C + c) * P : (n * C + c) * P + P]
            plane_total = plane_squares = 0.0
            for i in range(P):
                d = np.float64(load(xs[i])) - start
                plane_total += d
                plane_squares += d * d
            total += plane_total
            squares += plane_squares
        m = total / count
        v = squares / count - m * m
        if v < 0.0:
            v = 0.0
        known[c], known[C + c] = start + m, v
        known[2 * C + c] = 1.0 / np.sqrt(v + eps)
        known[3 * C + c] = v * (count / (count - 1.0))
        affine(xa, ra, ya, N, C, P, c, c + 1, wa, ba, statistics)


def backward(xa, ga, ya, dxa, dra, N, C, P, first, last, wa, ba, statistics, frozen):
    """Write the gradients of x (and of the residual) for channels ``first`` to ``last``, and those of gamma and beta."""
    x, g, y = carray(pointer(xa), N * C * P), carray(pointer(ga), N * C * P), carray(pointer(ya), N * C * P)
    dx, dr = carray(pointer(dxa), N * C * P), carray(pointer(dra), N * C * P)
    weight, bias, known = carray(parameters(wa), C), carray(parameters(ba), C), carray(table(statistics), 6 * C)
    count = N * P
    for c in range(first, last):
        h = number(known[c])
        lo = number(known[c] - h)
        rstd = known[2 * C + c]
        a = number(rstd * (weight[c] if wa != 0 else 1.0))
        b = number(bias[c]) if ba != 0 else nothing
        mean, scale, shift = known[c], np.float64(a), np.float64(b)
        total = products = 0.0
        for n in range(N):
            begin = (n * C + c) * P
            xs, gs, ys = x[begin : begin + P], g[begin : begin + P], y[begin : begin + P]
            plane_total = plane_products = 0.0
            for i in range(P):
                d = np.float64(load(xs[i])) - mean
                dz = np.float64(through(load(gs[i]), load(ys[i]) if adds else number(d * scale + shift)))
                plane_total += dz
                plane_products += dz * d
            total += plane_total
            products += plane_products
        known[4 * C + c], known[5 * C + c] = products * rstd, total
        k0 = number(0.0 if frozen else total / count)
        k1 = number(0.0 if frozen else products * rstd * rstd / count)
        for n in range(N):
            begin = (n * C + c) * P
            xs, gs, ys = x[begin : begin + P], g[begin : begin + P], y[begin : begin + P]
            out, rest = dx[begin : begin + P], dr[begin : begin + P]
            for i in range(P):
                d = load(xs[i]) - h - lo
                dz = through(load(gs[i]), load(ys[i]) if adds else d * a + b)
                if adds:
                    put(rest, i, dz)
                put(out, i, (dz - k0 - d * k1) * a)


@cache
def plane_loops(kind: str, activation: str | None, adds: bool, streams: bool, wide: bool) -> PlaneLoops:
    """The loops for elements of ``kind`` ("float32", "float64", "float16", "bfloat16").

    Args:
        kind: Of the elements.
        activation: None, "relu" or "leaky_relu".
        adds: Whether a residual is added before the activation; backward, whether the output is given to tell where
            the activation was flat, and the gradient of the residual is written.
        streams: Whether results go past the caches; their planes then begin at multiples of 64 bytes.
        wide: Whether float32 elements are computed with in float64.
    """
    blocks = elements(kind, activation, streams=streams, wide=wide)
    names = {**blocks._asdict(), "adds": adds, "table": bits.pointer[np.float64], "nothing": blocks.number(0)}
    variant = f"{kind}_{activation}_{adds:d}{streams:d}{wide:d}"
    names["affine"] = specialised(affine, names, variant)
    return PlaneLoops(specialised(forward, names, variant), specialised(backward, names, variant), names["affine"])
