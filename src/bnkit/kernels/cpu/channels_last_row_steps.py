"""The steps of the loops over columns; see ``channels_last_loops``.

Columns are summed after a shift by the mean of four values of the channel: some rows in the arithmetic of the elements,
mostly float32, and these sums in float64. If the sums show that the shift was bad, the channel is summed again in float64.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bnkit.kernels.cpu import loop_call
from bnkit.kernels.cpu.element_access import elements
from bnkit.kernels.cpu.intrinsics import advance, load, store
from bnkit.kernels.cpu.numba_compile import Variant, inner

ROWS_PER_SUM = 32  # rows between two additions in float64
BLOCK_ELEMENTS = 65536


class RowSteps(NamedTuple):
    """The steps that ``channels_last_loops`` calls, compiled for one variant; see their docstrings below."""

    estimate_shift: Any
    accumulate: Any
    finalize: Any
    broadcast: Any
    write: Any
    accumulate_backward: Any
    finalize_backward: Any
    broadcast_backward: Any
    write_backward: Any


def row_steps(variant: Variant) -> RowSteps:
    """The steps for ``variant``."""
    _, parameters, _, acc_dtype, load_element, store_element, activate, activation_backward = elements(
        variant.kind, variant.activation, nontemporal=variant.nontemporal, float64_compute=variant.float64_compute
    )
    zero = acc_dtype(0)
    has_residual, needs_output, given_terms = variant.has_residual, variant.needs_output, variant.given_terms
    step = partial(inner, variant=str(variant))

    @step
    def estimate_shift(x, stride, rows, C, P, first, last, start, W):
        """Fill ``start`` (W,) with an estimate of the mean of each column's channel, ``first`` to ``last``, P columns each."""
        quarter, half = acc_dtype(0.25), rows // 2
        for c in range(first, last):
            xs, places = advance(x, c * P), advance(start, (c - first) * P)
            some = load_element(xs, 0) * quarter + load_element(xs, half // 2 * stride) * quarter
            some += load_element(xs, half * stride) * quarter + load_element(xs, (half + half // 2) * stride) * quarter
            for i in range(P):
                store(places, i, some)
        for j in range((last - first) * P, W):  # repeats the entries from the beginning
            store(start, j, load(start, j - (last - first) * P))

    @step
    def accumulate(x, stride, first, last, W, start, sums, workspace):
        """Add rows ``first`` to ``last`` of W columns to ``sums`` (2, W); ``workspace`` is (2, W)."""
        total, squares = workspace, advance(workspace, W)
        for piece in range(first, last, ROWS_PER_SUM):
            end = min(piece + ROWS_PER_SUM, last)
            for j in range(W):
                store(total, j, zero)
                store(squares, j, zero)
            fours = piece + (end - piece) // 4 * 4
            for row in range(piece, fours, 4):  # four rows per load and store of the sums
                a = advance(x, row * stride)
                b, c, d = advance(a, stride), advance(a, 2 * stride), advance(a, 3 * stride)
                for j in range(W):
                    origin = load(start, j)
                    p, q, r, s = (
                        load_element(a, j) - origin,
                        load_element(b, j) - origin,
                        load_element(c, j) - origin,
                        load_element(d, j) - origin,
                    )
                    store(total, j, load(total, j) + ((p + q) + (r + s)))
                    store(squares, j, load(squares, j) + ((p * p + q * q) + (r * r + s * s)))
            for row in range(fours, end):
                a = advance(x, row * stride)
                for j in range(W):
                    p = load_element(a, j) - load(start, j)
                    store(total, j, load(total, j) + p)
                    store(squares, j, load(squares, j) + p * p)
            for j in range(W):
                store(sums, j, load(sums, j) + load(total, j))
                store(sums, W + j, load(sums, W + j) + load(squares, j))

    @step
    def gather(sums, P, first, last, W, totals):
        """Add the sums of the columns to the totals of their channels."""
        for turn in range(0, W, (last - first) * P):
            for c in range(first, last):
                its, total = advance(sums, turn + (c - first) * P), 0.0
                for i in range(P):
                    total += load(its, i)
                store(totals, c, load(totals, c) + total)

    @step
    def finalize(x, stride, rows, C, P, first, last, sums, start, W, count, eps, saved_statistics, totals):
        """The statistics of channels ``first`` to ``last`` from the sums over their columns."""
        all_squares = advance(totals, C)
        for c in range(first, last):
            store(totals, c, 0.0)
            store(all_squares, c, 0.0)
        gather(sums, P, first, last, W, totals)
        gather(advance(sums, W), P, first, last, W, all_squares)
        for c in range(first, last):
            m, squares = load(totals, c) / count, load(all_squares, c)
            v = squares / count - m * m
            mean = m + np.float64(load(start, (c - first) * P))
            # With a shift off by more than four deviations, float32 loses more than four bits of the squares, and may overflow.
            if not (m * m <= 16.0 * v or squares == 0.0) or not abs(v) < np.inf:
                mean = v = 0.0
                for row in range(rows):
                    for i in range(P):
                        mean += np.float64(load_element(x, row * stride + c * P + i))
                mean /= count
                for row in range(rows):
                    for i in range(P):
                        d = np.float64(load_element(x, row * stride + c * P + i)) - mean
                        v += d * d
                v /= count
            v = max(v, 0.0)
            store(saved_statistics, c, mean)
            store(saved_statistics, C + c, v)
            store(saved_statistics, 2 * C + c, 1.0 / np.sqrt(v + eps))
            store(saved_statistics, 3 * C + c, v * (count / (count - 1.0)))

    @step
    def broadcast(columns, W, C, P, first, last, weight, bias, saved_statistics):
        """Fill the first four of ``columns`` (6, W): the mean in two parts, scale and shift, from the channels' statistics."""
        for c in range(first, last):
            mean_hi = acc_dtype(load(saved_statistics, c))
            # The mean in two parts: its rounding error in float32 could exceed a small deviation.
            mean_lo = acc_dtype(load(saved_statistics, c) - mean_hi)
            if not abs(mean_lo) < np.inf:
                mean_lo = zero
            scale = acc_dtype(load(saved_statistics, 2 * C + c) * (load(parameters(weight), c) if weight != 0 else 1.0))
            shift = acc_dtype(load(parameters(bias), c)) if bias != 0 else zero
            for turn in range((c - first) * P, W, (last - first) * P):
                for j in range(turn, turn + P):
                    store(columns, j, mean_hi)
                    store(columns, W + j, mean_lo)
                    store(columns, 2 * W + j, scale)
                    store(columns, 3 * W + j, shift)

    @step
    def write(x, r, y, stride, first, last, W, columns):
        """Write ``activation((x - mean) * rstd * gamma + beta + residual)``, the last groups of rows first: they are in the cache."""
        mean_hi, mean_lo, scale, shift = columns, advance(columns, W), advance(columns, 2 * W), advance(columns, 3 * W)
        block_rows = max(BLOCK_ELEMENTS // W, 1)
        for piece in range((last - first - 1) // block_rows, -1, -1):
            begin = first + piece * block_rows
            for row in range(begin, min(begin + block_rows, last)):
                xs, rs, ys = advance(x, row * stride), advance(r, row * stride), advance(y, row * stride)
                for j in range(W):
                    z = (load_element(xs, j) - load(mean_hi, j) - load(mean_lo, j)) * load(scale, j) + load(shift, j)
                    if has_residual:
                        z += load_element(rs, j)
                    store_element(ys, j, activate(z))

    @step
    def accumulate_backward(x, g, y, stride, first, last, W, columns, sums, workspace):
        """Sum, column by column, the gradients before the activation, and their products with (x - mean)."""
        mean_hi, mean_lo, scale, shift = columns, advance(columns, W), advance(columns, 2 * W), advance(columns, 3 * W)
        total, with_x = workspace, advance(workspace, W)
        for piece in range(first, last, ROWS_PER_SUM):
            end = min(piece + ROWS_PER_SUM, last)
            for j in range(W):
                store(total, j, zero)
                store(with_x, j, zero)
            pairs = piece + (end - piece) // 2 * 2
            for row in range(piece, pairs, 2):
                xs, gs, ys = advance(x, row * stride), advance(g, row * stride), advance(y, row * stride)
                xt, gt, yt = advance(xs, stride), advance(gs, stride), advance(ys, stride)
                for j in range(W):
                    h, o, a, b = load(mean_hi, j), load(mean_lo, j), load(scale, j), load(shift, j)
                    d, e = load_element(xs, j) - h - o, load_element(xt, j) - h - o
                    dz = activation_backward(load_element(gs, j), load_element(ys, j) if needs_output else d * a + b)
                    ez = activation_backward(load_element(gt, j), load_element(yt, j) if needs_output else e * a + b)
                    store(total, j, load(total, j) + (dz + ez))
                    store(with_x, j, load(with_x, j) + (dz * d + ez * e))
            for row in range(pairs, end):
                xs, gs, ys = advance(x, row * stride), advance(g, row * stride), advance(y, row * stride)
                for j in range(W):
                    d = load_element(xs, j) - load(mean_hi, j) - load(mean_lo, j)
                    dz = activation_backward(
                        load_element(gs, j),
                        load_element(ys, j) if needs_output else d * load(scale, j) + load(shift, j),
                    )
                    store(total, j, load(total, j) + dz)
                    store(with_x, j, load(with_x, j) + dz * d)
            for j in range(W):
                store(sums, j, load(sums, j) + load(total, j))
                store(sums, W + j, load(sums, W + j) + load(with_x, j))

    @step
    def finalize_backward(C, P, first, last, sums, W, saved_statistics, by_gamma):
        """The gradients of gamma and beta from the sums over the columns."""
        by_beta = advance(by_gamma, C)
        for c in range(first, last):
            store(by_gamma, c, 0.0)
            store(by_beta, c, 0.0)
        gather(sums, P, first, last, W, by_beta)
        gather(advance(sums, W), P, first, last, W, by_gamma)
        for c in range(first, last):
            store(by_gamma, c, load(by_gamma, c) * load(saved_statistics, 2 * C + c))

    @step
    def broadcast_backward(columns, W, C, P, first, last, count, mode, saved_statistics, by_gamma):
        """Fill the last two of ``columns``: the given correction terms, or those from the gradients of gamma and beta."""
        for c in range(first, last):
            c0 = c1 = 0.0
            if mode == loop_call.OWN:
                c0 = load(by_gamma, C + c) / count
                c1 = load(by_gamma, c) * load(saved_statistics, 2 * C + c) / count
            if mode == loop_call.SECOND_HALF:
                c0, c1 = load(by_gamma, C + c), load(by_gamma, c)
            for turn in range((c - first) * P, W, (last - first) * P):
                for j in range(turn, turn + P):
                    store(columns, 4 * W + j, acc_dtype(c0))
                    store(columns, 5 * W + j, acc_dtype(c1))

    @step
    def write_backward(x, g, y, dx, dr, stride, first, last, W, columns):
        """Write the gradients of x (and of the residual), the last groups of rows first."""
        mean_hi, mean_lo, scale, shift = columns, advance(columns, W), advance(columns, 2 * W), advance(columns, 3 * W)
        c0, c1 = advance(columns, 4 * W), advance(columns, 5 * W)
        block_rows = max(BLOCK_ELEMENTS // W, 1)
        for piece in range((last - first - 1) // block_rows, -1, -1):
            begin = first + piece * block_rows
            for row in range(begin, min(begin + block_rows, last)):
                xs, gs, ys = advance(x, row * stride), advance(g, row * stride), advance(y, row * stride)
                out, rest = advance(dx, row * stride), advance(dr, row * stride)
                for j in range(W):
                    d = load_element(xs, j) - load(mean_hi, j) - load(mean_lo, j)
                    dz = activation_backward(
                        load_element(gs, j),
                        load_element(ys, j) if needs_output else d * load(scale, j) + load(shift, j),
                    )
                    if has_residual:
                        store_element(rest, j, dz)
                    if given_terms:
                        store_element(out, j, dz * load(scale, j) - load(c0, j) - d * load(c1, j))
                    else:
                        store_element(out, j, (dz - load(c0, j) - d * load(c1, j)) * load(scale, j))

    return RowSteps(
        estimate_shift,
        accumulate,
        finalize,
        broadcast,
        write,
        accumulate_backward,
        finalize_backward,
        broadcast_backward,
        write_backward,
    )
