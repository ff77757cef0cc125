"""Loops over planes, compiled by Numba: a tensor (N, C, P) whose P positions of a channel lie next to each other.

A thread takes a channel, or as many as fit in its cache, reads them twice, and writes. The second read is from the cache,
into which the next channels are prefetched meanwhile.

Pieces of 256 values are summed in the arithmetic of the elements, mostly float32, and these sums are added in float64. The
values of a plane are shifted by the mean of four of them, to avoid cancellation; if the sums show that this estimate was bad,
the plane is summed again in float64. Planes are merged relative to the mean of the first.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Literal

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call
from bnkit.kernels.cpu.element_access import elements
from bnkit.kernels.cpu.intrinsics import advance, load, prefetch, store
from bnkit.kernels.cpu.loop_call import D_RESIDUAL, DX, GRADIENT, RESIDUAL, X, Y, partition
from bnkit.kernels.cpu.numba_compile import Variant, inner, outer

PIECE = 256  # elements between two additions in float64, and between two bursts of prefetching
PLANES_AHEAD = 3  # planes of a channel between the one that is read and the one that is prefetched
LINE = 16  # the least number of elements in a cache line


@cache
def plane_loop(name: Literal["forward", "backward", "measure"], variant: Variant) -> int:
    """The address of a loop, compiled for ``variant``; for ``loop_call.loop_call_for``."""
    pointer, parameters, _, acc_dtype, load_element, store_element, activate, activation_backward = elements(
        variant.kind, variant.activation, nontemporal=variant.nontemporal, float64_compute=variant.float64_compute
    )
    table, flags, zero = intrinsics.pointer[np.float64], intrinsics.pointer[np.uint8], acc_dtype(0)
    has_residual, needs_output, given_terms, masked = (
        variant.has_residual, variant.needs_output, variant.given_terms, variant.masked,
    )  # fmt: skip
    step = partial(inner, variant=str(variant))

    @step
    def prefetch_block(x, size):
        """Prefetch elements that will be read soon."""
        for i in range(0, size, LINE):
            prefetch(x, i)

    @step
    def exact_moments(x, P, mask):
        """The number of counted values of a plane, their mean, and the sum of their squared deviations; all in float64."""
        count, total = 0, 0.0
        for i in range(P):
            if not masked or load(mask, i) != 0:
                total += np.float64(load_element(x, i))
                count += 1
        if count == 0:
            return 0, 0.0, 0.0
        mean, squares = total / count, 0.0
        for i in range(P):
            if not masked or load(mask, i) != 0:
                d = np.float64(load_element(x, i)) - mean
                squares += d * d
        return count, mean, squares

    @step
    def moments(x, P, ahead):
        """The mean of a plane and the sum of its squared deviations; prefetch what is ``ahead`` elements further."""
        quarter, half = acc_dtype(0.25), P // 2
        start = load_element(x, 0) * quarter + load_element(x, half // 2) * quarter
        start += load_element(x, half) * quarter + load_element(x, half + half // 2) * quarter
        total = squares = 0.0
        for piece in range(0, P, PIECE):
            size, xs = min(PIECE, P - piece), advance(x, piece)
            if ahead != 0:
                prefetch_block(advance(xs, ahead), size)
            piece_total = piece_squares = zero
            for i in range(size):
                d = load_element(xs, i) - start
                piece_total += d
                piece_squares += d * d
            total += piece_total
            squares += piece_squares
        offset = total / P
        squares -= offset * total
        return np.float64(start) + offset, squares, offset * total

    @step
    def write(x, r, y, P, mean_hi, mean_lo, scale, shift, distance):
        """Write a plane, and prefetch the plane that begins ``distance`` elements further, unless that is 0."""
        for piece in range(0, P, PIECE):
            size, xs, rs, ys = min(PIECE, P - piece), advance(x, piece), advance(r, piece), advance(y, piece)
            if distance != 0:
                prefetch_block(advance(xs, distance), size)
            for i in range(size):
                z = (load_element(xs, i) - mean_hi - mean_lo) * scale + shift
                if has_residual:
                    z += load_element(rs, i)
                store_element(ys, i, activate(z))

    @step
    def products(x, g, y, mask, P, mean_hi, mean_lo, scale, shift, ahead):
        """The sums over a plane of the gradients before the activation, alone and times (x - mean)."""
        total = with_x = 0.0
        for piece in range(0, P, PIECE):
            size, xs, gs, ys = min(PIECE, P - piece), advance(x, piece), advance(g, piece), advance(y, piece)
            counts = advance(mask, piece)
            if ahead != 0:
                prefetch_block(advance(xs, ahead), size)
                prefetch_block(advance(gs, ahead), size)
            piece_total = piece_with_x = zero
            for i in range(size):
                d = load_element(xs, i) - mean_hi - mean_lo
                dz = activation_backward(
                    load_element(gs, i), load_element(ys, i) if needs_output else d * scale + shift
                )
                if masked and load(counts, i) == 0 and not abs(d) < np.inf:
                    dz = d = zero  # masked and not finite: 0 times NaN would be NaN
                piece_total += dz
                piece_with_x += dz * d
            total += piece_total
            with_x += piece_with_x
        return total, with_x

    @step
    def write_backward(x, g, y, dx, dr, mask, P, mean_hi, mean_lo, scale, shift, c0, c1, distance):
        """Write the gradients of a plane."""
        for piece in range(0, P, PIECE):
            size, xs, gs, ys = min(PIECE, P - piece), advance(x, piece), advance(g, piece), advance(y, piece)
            out, rest, counts = advance(dx, piece), advance(dr, piece), advance(mask, piece)
            if distance != 0:
                prefetch_block(advance(xs, distance), size)
                prefetch_block(advance(gs, distance), size)
            for i in range(size):
                d = load_element(xs, i) - mean_hi - mean_lo
                dz = activation_backward(
                    load_element(gs, i), load_element(ys, i) if needs_output else d * scale + shift
                )
                if has_residual:
                    store_element(rest, i, dz)
                if masked and load(counts, i) == 0:  # it was excluded from the statistics
                    store_element(out, i, dz * scale if abs(d) < np.inf else zero)
                else:
                    store_element(out, i, dz * scale - c0 - d * c1 if given_terms else (dz - c0 - d * c1) * scale)

    def measure(a):
        """Write the mean of every plane, then those of the channels, and the sums of their squared deviations."""
        N, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.POSITIONS)
        x, means = pointer(load(a, X)), table(load(a, loop_call.STATISTICS))
        row, count = C * P, np.float64(N * P)
        fetches = load(a, loop_call.AHEAD) != 0
        _, begin, end = partition(a, C)
        for c in range(begin, end):
            first = total = sum_of_squares = 0.0
            for n in range(N):
                plane = advance(x, n * row + c * P)
                ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
                mean, squares, cancelled = moments(plane, P, ahead)
                if not (cancelled <= 16.0 * squares or squares == 0.0) or not abs(squares) < np.inf:  # as below
                    _, mean, squares = exact_moments(plane, P, flags(load(a, loop_call.MASK)))
                store(means, n * C + c, mean)
                if n == 0:
                    first = mean
                off = mean - first
                total += off
                sum_of_squares += squares + off * off * P
            offset = total / N
            store(means, N * C + c, first + offset)
            store(means, N * C + C + c, max(sum_of_squares - offset * offset * count, 0.0))

    def forward(a):
        """Compute the statistics of channels, and write ``activation((x - mean) * rstd * gamma + beta + residual)``."""
        N, C = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS)
        P, count, block = load(a, loop_call.POSITIONS), load(a, loop_call.COUNT), load(a, loop_call.BLOCK)
        x, r, y = pointer(load(a, X)), pointer(load(a, RESIDUAL)), pointer(load(a, Y))
        weight, bias = load(a, loop_call.WEIGHT), load(a, loop_call.BIAS)
        rows, mask = table(load(a, loop_call.STATISTICS)), flags(load(a, loop_call.MASK))
        means, variances, inverse, unbiased = rows, advance(rows, C), advance(rows, 2 * C), advance(rows, 3 * C)
        sums = table(load(a, loop_call.SUMS))
        merged = advance(sums, C)
        eps, mode = load(table(load(a, loop_call.EPS)), 0), load(a, loop_call.MODE)
        fetches = load(a, loop_call.AHEAD) != 0
        row = C * P
        _, begin, end = partition(a, C)
        for first in range(begin, end, block):
            last = min(first + block, end)
            if mode != loop_call.GIVEN_ONES:
                for c in range(first, last):
                    store(means, c, 0.0)
                    store(variances, c, 0.0)
                    store(sums, c, 0.0)
                    store(merged, c, 0.0)
                for n in range(N):
                    ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
                    for c in range(first, last):
                        plane, values, again = advance(x, n * row + c * P), P, masked
                        mean = squares = 0.0
                        if not masked:
                            mean, squares, cancelled = moments(plane, P, ahead)
                            # The estimate was off by more than four deviations, which costs more than four bits of the
                            # squares in float32; or it overflowed.
                            again = not (cancelled <= 16.0 * squares or squares == 0.0) or not abs(squares) < np.inf
                        if again:
                            values, mean, squares = exact_moments(plane, P, advance(mask, n * P))
                        if values > 0:
                            if load(merged, c) == 0.0:
                                store(means, c, mean)
                            store(merged, c, load(merged, c) + values)
                            off = mean - load(means, c)
                            store(sums, c, load(sums, c) + off * values)
                            store(variances, c, load(variances, c) + squares + off * off * values)
                for c in range(first, last):
                    m = load(sums, c) / count
                    v = load(variances, c) / count - m * m
                    if v < 0.0:
                        v = 0.0
                    store(means, c, load(means, c) + m)
                    store(variances, c, v)
                    store(inverse, c, 1.0 / np.sqrt(v + eps))
                    store(unbiased, c, v * (count / (count - 1.0)))
            distance = (last - first) * P if fetches and last < end else 0
            for step in range(0 if mode == loop_call.FIRST_HALF else N):
                n = N - 1 - step  # the planes read last are in the cache
                for c in range(first, last):
                    mean_hi = acc_dtype(load(means, c))
                    # The mean in two parts: its rounding error in float32 could exceed a small deviation.
                    mean_lo = acc_dtype(load(means, c) - mean_hi)
                    if not abs(mean_lo) < np.inf:
                        mean_lo = zero
                    scale = acc_dtype(load(inverse, c) * (load(parameters(weight), c) if weight != 0 else 1.0))
                    shift = acc_dtype(load(parameters(bias), c)) if bias != 0 else zero
                    at = n * row + c * P
                    write(advance(x, at), advance(r, at), advance(y, at), P, mean_hi, mean_lo, scale, shift, distance)

    def backward(a):
        """Write the gradients of x (and of the residual) for channels, and those of gamma and beta."""
        N, C = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS)
        P, count, block = load(a, loop_call.POSITIONS), load(a, loop_call.COUNT), load(a, loop_call.BLOCK)
        x, g, y = pointer(load(a, X)), pointer(load(a, GRADIENT)), pointer(load(a, Y))
        dx, dr = pointer(load(a, DX)), pointer(load(a, D_RESIDUAL))
        weight, bias = load(a, loop_call.WEIGHT), load(a, loop_call.BIAS)
        rows, mask = table(load(a, loop_call.STATISTICS)), flags(load(a, loop_call.MASK))
        means, inverse = rows, advance(rows, 2 * C)
        by_gamma = table(load(a, loop_call.SUMS))
        by_beta = advance(by_gamma, C)
        mode, fetches = load(a, loop_call.MODE), load(a, loop_call.AHEAD) != 0
        row = C * P
        _, begin, end = partition(a, C)
        # The last channels first: the forward pass processed them last, so they may still be in a cache.
        for last in range(end, begin, -block):
            first = max(last - block, begin)
            distance = (max(first - block, begin) - first) * P if fetches and first > begin else 0
            if mode != loop_call.SECOND_HALF:
                for c in range(first, last):
                    store(by_gamma, c, 0.0)
                    store(by_beta, c, 0.0)
            for writes in range(1 if mode == loop_call.SECOND_HALF else 0, 1 if mode == loop_call.FIRST_HALF else 2):
                for step in range(N):
                    n = N - 1 - step if writes == 1 else step
                    ahead = PLANES_AHEAD * row if fetches and n + PLANES_AHEAD < N else 0
                    for c in range(first, last):
                        mean_hi = acc_dtype(load(means, c))
                        mean_lo = acc_dtype(load(means, c) - mean_hi)
                        rstd = load(inverse, c)
                        scale = acc_dtype(rstd * (load(parameters(weight), c) if weight != 0 else 1.0))
                        shift = acc_dtype(load(parameters(bias), c)) if bias != 0 else zero
                        at = n * row + c * P
                        xs, gs, ys = advance(x, at), advance(g, at), advance(y, at)
                        if writes == 0:
                            total, with_x = products(
                                xs, gs, ys, advance(mask, n * P), P, mean_hi, mean_lo, scale, shift, ahead
                            )
                            store(by_gamma, c, load(by_gamma, c) + with_x)
                            store(by_beta, c, load(by_beta, c) + total)
                        else:
                            c0 = c1 = zero
                            if mode == loop_call.OWN:
                                c0 = acc_dtype(load(by_beta, c) / count)
                                c1 = acc_dtype(load(by_gamma, c) * rstd * rstd / count)
                            if mode == loop_call.SECOND_HALF:
                                c0, c1 = acc_dtype(load(by_beta, c)), acc_dtype(load(by_gamma, c))
                            out, rest, counts = advance(dx, at), advance(dr, at), advance(mask, n * P)
                            write_backward(
                                xs, gs, ys, out, rest, counts, P, mean_hi, mean_lo, scale, shift, c0, c1, distance
                            )
            if mode != loop_call.SECOND_HALF:
                for c in range(first, last):
                    store(by_gamma, c, load(by_gamma, c) * load(inverse, c))

    return outer({"forward": forward, "backward": backward, "measure": measure}[name], str(variant))
