"""Loops over planes, compiled by Numba: a tensor (N, C, P) whose P positions of a channel lie next to each other.

A thread takes a channel, or as many as fit in its cache, reads them twice, and writes. The second time they come from the
cache; meanwhile the next ones are fetched into it.

Sums are taken of what a pass over 256 values makes in the arithmetic of the elements, float32 mostly, and added up in
float64. A plane's are taken around the mean of four of its values, so that nothing cancels; where that is a bad guess, it
shows in the sums, and the plane is done again in float64. Planes are merged around the mean of the first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call
from bnkit.kernels.cpu.compiling import inner, outer
from bnkit.kernels.cpu.elements import elements
from bnkit.kernels.cpu.intrinsics import behind, get, prefetch, put
from bnkit.kernels.cpu.loop_call import D_RESIDUAL, DX, GRADIENT, RESIDUAL, X, Y, share
from bnkit.kernels.cpu.variant import Variant

# What these mean is filled in for each kind of element and activation.
pointer = parameters = table = flags = number = nothing = load = save = activate = through = None
adds = sees = apart = masked = None
fetch = moments = exact_moments = products = write = write_back = None

PIECE = 256  # elements between two additions in float64, and between two bursts of fetching
PLANES_AHEAD = 3  # planes of a channel between the one that is read and the one that is fetched
LINE = 16  # elements, at least, of a line of the cache


def _fetch(x, size):
    """Ask for elements that will be read soon."""
    for i in range(0, size, LINE):
        prefetch(x, i)


def _exact_moments(x, P, mask):
    """How many values of a plane count, their mean, and the sum of their squared deviations; all in float64."""
    count, total = 0, 0.0
    for i in range(P):
        if not masked or get(mask, i) != 0:
            total += np.float64(load(x, i))
            count += 1
    if count == 0:
        return 0, 0.0, 0.0
    mean, squares = total / count, 0.0
    for i in range(P):
        if not masked or get(mask, i) != 0:
            d = np.float64(load(x, i)) - mean
            squares += d * d
    return count, mean, squares


def _moments(x, P, ahead):
    """The mean of a plane and the sum of its squared deviations; ``ahead`` elements further on, fetch what comes next."""
    quarter, half = number(0.25), P // 2
    start = load(x, 0) * quarter + load(x, half // 2) * quarter
    start += load(x, half) * quarter + load(x, half + half // 2) * quarter
    total = squares = 0.0
    for piece in range(0, P, PIECE):
        size, xs = min(PIECE, P - piece), behind(x, piece)
        if ahead != 0:
            fetch(behind(xs, ahead), size)
        piece_total = piece_squares = nothing
        for i in range(size):
            d = load(xs, i) - start
            piece_total += d
            piece_squares += d * d
        total += piece_total
        squares += piece_squares
    offset = total / P
    squares -= offset * total
    return np.float64(start) + offset, squares, offset * total


def _write(x, r, y, P, high, low, scale, shift, following):
    """Write a plane; of the one that begins ``following`` elements further on (if not 0), fetch as much."""
    for piece in range(0, P, PIECE):
        size, xs, rs, ys = min(PIECE, P - piece), behind(x, piece), behind(r, piece), behind(y, piece)
        if following != 0:
            fetch(behind(xs, following), size)
        for i in range(size):
            z = (load(xs, i) - high - low) * scale + shift
            if adds:
                z += load(rs, i)
            save(ys, i, activate(z))


def _products(x, g, y, mask, P, high, low, scale, shift, ahead):
    """The sums over a plane of the gradients before the activation, alone and times (x - mean)."""
    total = with_x = 0.0
    for piece in range(0, P, PIECE):
        size, xs, gs, ys = min(PIECE, P - piece), behind(x, piece), behind(g, piece), behind(y, piece)
        counts = behind(mask, piece)
        if ahead != 0:
            fetch(behind(xs, ahead), size)
            fetch(behind(gs, ahead), size)
        piece_total = piece_with_x = nothing
        for i in range(size):
            d = load(xs, i) - high - low
            dz = through(load(gs, i), load(ys, i) if sees else d * scale + shift)
            if masked and get(counts, i) == 0 and not abs(d) < np.inf:
                dz = d = nothing  # neither counts nor is a number: 0 times NaN would be NaN
            piece_total += dz
            piece_with_x += dz * d
        total += piece_total
        with_x += piece_with_x
    return total, with_x


def _write_back(x, g, y, dx, dr, mask, P, high, low, scale, shift, k0, k1, following):
    """Write the gradients of a plane."""
    for piece in range(0, P, PIECE):
        size, xs, gs, ys = min(PIECE, P - piece), behind(x, piece), behind(g, piece), behind(y, piece)
        out, rest, counts = behind(dx, piece), behind(dr, piece), behind(mask, piece)
        if following != 0:
            fetch(behind(xs, following), size)
            fetch(behind(gs, following), size)
        for i in range(size):
            d = load(xs, i) - high - low
            dz = through(load(gs, i), load(ys, i) if sees else d * scale + shift)
            if adds:
                save(rest, i, dz)
            if masked and get(counts, i) == 0:  # it had no part in the statistics
                save(out, i, dz * scale if abs(d) < np.inf else nothing)
            else:
                save(out, i, dz * scale - k0 - d * k1 if apart else (dz - k0 - d * k1) * scale)


def _measure(a):
    """Write the mean of every plane; behind them those of the channels, and the sums of their squared deviations."""
    N, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.POSITIONS)
    x, means = pointer(get(a, X)), table(get(a, loop_call.STATISTICS))
    row, count = C * P, np.float64(N * P)
    fetches = get(a, loop_call.AHEAD) != 0
    _, begin, end = share(a, C)
    for c in range(begin, end):
        first = total = sum_of_squares = 0.0
        for n in range(N):
            plane = behind(x, n * row + c * P)
            ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
            mean, squares, cancelled = moments(plane, P, ahead)
            if not (cancelled <= 16.0 * squares or squares == 0.0) or not abs(squares) < np.inf:  # as below
                _, mean, squares = exact_moments(plane, P, flags(get(a, loop_call.MASK)))
            put(means, n * C + c, mean)
            if n == 0:
                first = mean
            off = mean - first
            total += off
            sum_of_squares += squares + off * off * P
        offset = total / N
        put(means, N * C + c, first + offset)
        put(means, N * C + C + c, max(sum_of_squares - offset * offset * count, 0.0))


def _forward(a):
    """Take the statistics of channels, and write ``activation((x - mean) * rstd * gamma + beta + residual)``."""
    N, C = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS)
    P, count, block = get(a, loop_call.POSITIONS), get(a, loop_call.COUNT), get(a, loop_call.BLOCK)
    x, r, y = pointer(get(a, X)), pointer(get(a, RESIDUAL)), pointer(get(a, Y))
    weight, bias = get(a, loop_call.WEIGHT), get(a, loop_call.BIAS)
    known, mask = table(get(a, loop_call.STATISTICS)), flags(get(a, loop_call.MASK))
    means, variances, inverse, unbiased = known, behind(known, C), behind(known, 2 * C), behind(known, 3 * C)
    sums = table(get(a, loop_call.SUMS))
    seen = behind(sums, C)
    eps, mode = get(table(get(a, loop_call.EPS)), 0), get(a, loop_call.GIVEN)
    fetches = get(a, loop_call.AHEAD) != 0
    row = C * P
    _, begin, end = share(a, C)
    for first in range(begin, end, block):
        last = min(first + block, end)
        if mode != loop_call.GIVEN_ONES:
            for c in range(first, last):
                put(means, c, 0.0)
                put(variances, c, 0.0)
                put(sums, c, 0.0)
                put(seen, c, 0.0)
            for n in range(N):
                ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
                for c in range(first, last):
                    plane, values, again = behind(x, n * row + c * P), P, masked
                    mean = squares = 0.0
                    if not masked:
                        mean, squares, cancelled = moments(plane, P, ahead)
                        # The guess was further off than four deviations, which costs float32 more than four bits of the
                        # squares; or it overflowed.
                        again = not (cancelled <= 16.0 * squares or squares == 0.0) or not abs(squares) < np.inf
                    if again:
                        values, mean, squares = exact_moments(plane, P, behind(mask, n * P))
                    if values > 0:
                        if get(seen, c) == 0.0:
                            put(means, c, mean)
                        put(seen, c, get(seen, c) + values)
                        off = mean - get(means, c)
                        put(sums, c, get(sums, c) + off * values)
                        put(variances, c, get(variances, c) + squares + off * off * values)
            for c in range(first, last):
                m = get(sums, c) / count
                v = get(variances, c) / count - m * m
                if v < 0.0:
                    v = 0.0
                put(means, c, get(means, c) + m)
                put(variances, c, v)
                put(inverse, c, 1.0 / np.sqrt(v + eps))
                put(unbiased, c, v * (count / (count - 1.0)))
        following = (last - first) * P if fetches and last < end else 0
        for step in range(0 if mode == loop_call.FIRST_HALF else N):
            n = N - 1 - step  # what was read last is in the cache
            for c in range(first, last):
                high = number(get(means, c))
                # The mean in two parts: rounded to float32, it would be off by more than a small deviation.
                low = number(get(means, c) - high)
                if not abs(low) < np.inf:
                    low = nothing
                scale = number(get(inverse, c) * (get(parameters(weight), c) if weight != 0 else 1.0))
                shift = number(get(parameters(bias), c)) if bias != 0 else nothing
                at = n * row + c * P
                write(behind(x, at), behind(r, at), behind(y, at), P, high, low, scale, shift, following)


def _backward(a):
    """Write the gradients of x (and of the residual) for channels, and those of gamma and beta."""
    N, C = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS)
    P, count, block = get(a, loop_call.POSITIONS), get(a, loop_call.COUNT), get(a, loop_call.BLOCK)
    x, g, y = pointer(get(a, X)), pointer(get(a, GRADIENT)), pointer(get(a, Y))
    dx, dr = pointer(get(a, DX)), pointer(get(a, D_RESIDUAL))
    weight, bias = get(a, loop_call.WEIGHT), get(a, loop_call.BIAS)
    known, mask = table(get(a, loop_call.STATISTICS)), flags(get(a, loop_call.MASK))
    means, inverse = known, behind(known, 2 * C)
    by_gamma = table(get(a, loop_call.SUMS))
    by_beta = behind(by_gamma, C)
    mode, fetches = get(a, loop_call.GIVEN), get(a, loop_call.AHEAD) != 0
    row = C * P
    _, begin, end = share(a, C)
    # The last channels first: the forward pass had them last, so that they may be in a cache yet.
    for last in range(end, begin, -block):
        first = max(last - block, begin)
        following = (max(first - block, begin) - first) * P if fetches and first > begin else 0
        if mode != loop_call.SECOND_HALF:
            for c in range(first, last):
                put(by_gamma, c, 0.0)
                put(by_beta, c, 0.0)
        for writes in range(1 if mode == loop_call.SECOND_HALF else 0, 1 if mode == loop_call.FIRST_HALF else 2):
            for step in range(N):
                n = N - 1 - step if writes == 1 else step
                ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
                for c in range(first, last):
                    high = number(get(means, c))
                    low = number(get(means, c) - high)
                    rstd = get(inverse, c)
                    scale = number(rstd * (get(parameters(weight), c) if weight != 0 else 1.0))
                    shift = number(get(parameters(bias), c)) if bias != 0 else nothing
                    at = n * row + c * P
                    xs, gs, ys = behind(x, at), behind(g, at), behind(y, at)
                    if writes == 0:
                        total, with_x = products(xs, gs, ys, behind(mask, n * P), P, high, low, scale, shift, ahead)
                        put(by_gamma, c, get(by_gamma, c) + with_x)
                        put(by_beta, c, get(by_beta, c) + total)
                    else:
                        k0 = k1 = nothing
                        if mode == loop_call.OWN:
                            k0 = number(get(by_beta, c) / count)
                            k1 = number(get(by_gamma, c) * rstd * rstd / count)
                        if mode == loop_call.SECOND_HALF:
                            k0, k1 = number(get(by_beta, c)), number(get(by_gamma, c))
                        out, rest, counts = behind(dx, at), behind(dr, at), behind(mask, n * P)
                        write_back(xs, gs, ys, out, rest, counts, P, high, low, scale, shift, k0, k1, following)
        if mode != loop_call.SECOND_HALF:
            for c in range(first, last):
                put(by_gamma, c, get(by_gamma, c) * get(inverse, c))


@cache
def plane_loop(name: str, variant: Variant) -> int:
    """The address of the loop "forward", "backward" or "measure", for ``loop_call.plan_for``."""
    blocks = elements(variant.kind, variant.activation, streams=variant.streams, wide=variant.wide)
    names: dict[str, Any] = {**blocks._asdict(), **variant._asdict(), "nothing": blocks.number(0)}
    names |= {"table": intrinsics.pointer[np.float64], "flags": intrinsics.pointer[np.uint8]}
    for part in (_fetch, _exact_moments, _moments, _write, _products, _write_back):
        names[part.__name__.removeprefix("_")] = inner(part, names, str(variant))
    loop = {"forward": _forward, "backward": _backward, "measure": _measure}[name]
    return outer(loop, names, str(variant))
