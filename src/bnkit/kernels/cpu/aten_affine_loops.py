"""Loops that give the bits of PyTorch's batch normalization where its statistics are known, compiled by Numba.

With the coefficients ``alpha = rstd * gamma`` and ``beta = fma(-mean, alpha, bias)`` of each channel, PyTorch's kernels for the CPU
write ``fma(x, alpha, beta)``: that is how the compiler contracts ``x * alpha + beta`` for processors that can (ATen,
native/cpu/batch_norm_kernel.cpp). A sum and ReLU behind it round by themselves. All of it is one pass here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call
from bnkit.kernels.cpu.compiling import inner, outer
from bnkit.kernels.cpu.intrinsics import behind, fused, get, put
from bnkit.kernels.cpu.loop_call import RESIDUAL, X, Y, share

# What these mean is filled in for each variant.
adds = norms = bends = None
save = write = write_columns = None

table = intrinsics.pointer[np.float32]
wide = intrinsics.pointer[np.float64]
nothing, one = np.float32(0), np.float32(1)
# Where the table of arguments has addresses of coefficients, (2, C) float32: alpha, and behind it beta.
OF_X, OF_RESIDUAL = loop_call.WEIGHT, loop_call.BIAS
MEAN, SPREAD = loop_call.STATISTICS, loop_call.SUMS
# What a thread has to work in, for each of W columns: alpha and beta, twice, float32.
SCRATCH = 2


def _write(x, r, y, size, alpha, beta, r_alpha, r_beta):
    """Write a plane."""
    for i in range(size):
        z = fused(get(x, i), alpha, beta)
        if adds:
            z += fused(get(r, i), r_alpha, r_beta) if norms else get(r, i)
        if bends and z < nothing:  # neither -0 nor NaN is
            z = nothing
        save(y, i, z)


def _write_columns(x, r, y, W, columns):
    """Write a row of W columns."""
    alpha, beta = columns, behind(columns, W)
    r_alpha, r_beta = behind(beta, W), behind(beta, 2 * W)
    for j in range(W):
        z = fused(get(x, j), get(alpha, j), get(beta, j))
        if adds:
            z += fused(get(r, j), get(r_alpha, j), get(r_beta, j)) if norms else get(r, j)
        if bends and z < nothing:
            z = nothing
        save(y, j, z)


def _coefficients(a):
    """Write alpha and beta of C channels to Y; gamma is at X and the bias at RESIDUAL, or 0.

    At SPREAD are the inverse deviations of a batch, or, where statistics are given, variances.
    """
    C, weight, bias = get(a, loop_call.CHANNELS), get(a, X), get(a, RESIDUAL)
    mean, spread, out = table(get(a, MEAN)), table(get(a, SPREAD)), table(get(a, Y))
    eps, is_given = (
        np.float32(get(wide(get(a, loop_call.EPS)), 0)),
        get(a, loop_call.GIVEN) == loop_call.GIVEN_ONES,
    )
    for c in range(C):
        alpha = get(spread, c)
        if is_given:
            alpha = one / np.sqrt(alpha + eps)
        if weight != 0:
            alpha *= get(table(weight), c)
        put(out, c, alpha)
        put(out, C + c, fused(-get(mean, c), alpha, get(table(bias), c) if bias != 0 else nothing))


def _planes(a):
    """Write some of the planes of P positions, one of which is a channel of an example."""
    N, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.POSITIONS)
    x, r, y = table(get(a, X)), table(get(a, RESIDUAL)), table(get(a, Y))
    of_x, of_r = table(get(a, OF_X)), table(get(a, OF_RESIDUAL))
    _, first, last = share(a, N * C)
    for plane in range(first, last):
        c, at = plane % C, plane * P
        alpha, beta, r_alpha, r_beta = get(of_x, c), get(of_x, C + c), get(of_r, c), get(of_r, C + c)
        write(behind(x, at), behind(r, at), behind(y, at), P, alpha, beta, r_alpha, r_beta)


def _rows(a):
    """Write some of the rows of W columns, each with P of a channel in turn; the last one may be shorter."""
    rows, C, W = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.BLOCK)
    P, size = get(a, loop_call.POSITIONS), get(a, loop_call.COUNT)
    x, r, y = table(get(a, X)), table(get(a, RESIDUAL)), table(get(a, Y))
    of_x, of_r = table(get(a, OF_X)), table(get(a, OF_RESIDUAL))
    thread, first, last = share(a, rows)
    columns = table(get(a, loop_call.SCRATCH) + 8 * SCRATCH * W * thread)
    for j in range(W):
        c = j // P % C
        put(columns, j, get(of_x, c))
        put(columns, W + j, get(of_x, C + c))
        put(columns, 2 * W + j, get(of_r, c))
        put(columns, 3 * W + j, get(of_r, C + c))
    for row in range(first, last):
        at = row * W
        if at + W <= size:
            write_columns(behind(x, at), behind(r, at), behind(y, at), W, columns)
        else:
            for j in range(size - at):
                z = fused(get(x, at + j), get(columns, j), get(columns, W + j))
                if adds:
                    other = get(r, at + j)
                    z += fused(other, get(columns, 2 * W + j), get(columns, 3 * W + j)) if norms else other
                if bends and z < nothing:
                    z = nothing
                put(y, at + j, z)


@cache
def affine_loop(name: str, adds: bool, norms: bool, bends: bool, streams: bool) -> int:
    """The address of a loop, for ``loop_call.plan_for``.

    Args:
        name: "planes", "rows", or "coefficients", for which the others do not matter.
        adds: Whether a residual is added.
        norms: Whether that is normalised itself.
        bends: Whether ReLU follows.
        streams: Whether results go past the caches; planes or rows then begin at multiples of 64 bytes.
    """
    loop = {"planes": _planes, "rows": _rows, "coefficients": _coefficients}[name]
    names: dict[str, Any] = {
        "adds": adds,
        "norms": norms,
        "bends": bends,
        "save": intrinsics.stream if streams else put,
    }
    variant = f"affine_{adds:d}{norms:d}{bends:d}{streams:d}"
    for part in (_write, _write_columns):
        names[part.__name__.removeprefix("_")] = inner(part, names, variant, as_written=True)
    return outer(loop, names, variant, as_written=True)
