"""Loops that reproduce PyTorch's batch normalization bit for bit from known statistics, compiled by Numba.

With the coefficients ``alpha = rstd * gamma`` and ``beta = fma(-mean, alpha, bias)`` of each channel, PyTorch's CPU kernels
compute ``fma(x, alpha, beta)``: the compiler contracts ``x * alpha + beta`` to it on processors that support it (ATen,
native/cpu/batch_norm_kernel.cpp). A following sum and ReLU round separately. These loops do all of it in one pass.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import product

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call
from bnkit.kernels.cpu.intrinsics import advance, fused, load, store
from bnkit.kernels.cpu.loop_call import RESIDUAL, X, Y, partition
from bnkit.kernels.cpu.numba_compile import inner, outer

table = intrinsics.pointer[np.float32]
wide = intrinsics.pointer[np.float64]
zero, one = np.float32(0), np.float32(1)
# Entries of the argument table with addresses of coefficients, (2, C) float32: alpha, then beta.
OF_X, OF_RESIDUAL = loop_call.WEIGHT, loop_call.BIAS
MEAN, RSTD = loop_call.STATISTICS, loop_call.SUMS
# The workspace of a thread, for each of W columns: alpha and beta, twice, float32.
SCRATCH = 2


@cache
def affine_loop(name: str, has_residual: bool, norm_residual: bool, has_activation: bool, nontemporal: bool) -> int:
    """The address of a loop, for ``loop_call.loop_call_for``.

    Args:
        name: "planes", "rows", or "coefficients", which ignores the other arguments.
        has_residual: Whether a residual is added.
        norm_residual: Whether the residual is normalised too.
        has_activation: Whether ReLU follows.
        nontemporal: Whether stores bypass the caches; planes or rows then begin at multiples of 64 bytes.
    """
    variant = f"affine_{has_residual:d}{norm_residual:d}{has_activation:d}{nontemporal:d}"
    step = partial(inner, variant=variant, as_written=True)
    store_element = intrinsics.stream if nontemporal else store

    @step
    def write(x, r, y, size, alpha, beta, r_alpha, r_beta):
        """Write a plane."""
        for i in range(size):
            z = fused(load(x, i), alpha, beta)
            if has_residual:
                z += fused(load(r, i), r_alpha, r_beta) if norm_residual else load(r, i)
            if has_activation and z < zero:  # false for -0 and NaN
                z = zero
            store_element(y, i, z)

    @step
    def write_columns(x, r, y, W, columns):
        """Write a row of W columns."""
        alpha, beta = columns, advance(columns, W)
        r_alpha, r_beta = advance(beta, W), advance(beta, 2 * W)
        for j in range(W):
            z = fused(load(x, j), load(alpha, j), load(beta, j))
            if has_residual:
                z += fused(load(r, j), load(r_alpha, j), load(r_beta, j)) if norm_residual else load(r, j)
            if has_activation and z < zero:
                z = zero
            store_element(y, j, z)

    def coefficients(a):
        """Write alpha and beta of C channels to Y; gamma is at X and the bias at RESIDUAL, or 0.

        At RSTD are the inverse deviations of a batch, or the variances of given statistics.
        """
        C, weight, bias = load(a, loop_call.CHANNELS), load(a, X), load(a, RESIDUAL)
        mean, rstd_or_variance, out = table(load(a, MEAN)), table(load(a, RSTD)), table(load(a, Y))
        eps, is_given = (
            np.float32(load(wide(load(a, loop_call.EPS)), 0)),
            load(a, loop_call.MODE) == loop_call.GIVEN_ONES,
        )
        for c in range(C):
            alpha = load(rstd_or_variance, c)
            if is_given:
                alpha = one / np.sqrt(alpha + eps)
            if weight != 0:
                alpha *= load(table(weight), c)
            store(out, c, alpha)
            store(out, C + c, fused(-load(mean, c), alpha, load(table(bias), c) if bias != 0 else zero))

    def planes(a):
        """Write some of the planes of P positions; a plane is a channel of an example."""
        N, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.POSITIONS)
        x, r, y = table(load(a, X)), table(load(a, RESIDUAL)), table(load(a, Y))
        of_x, of_r = table(load(a, OF_X)), table(load(a, OF_RESIDUAL))
        _, first, last = partition(a, N * C)
        for plane in range(first, last):
            c, at = plane % C, plane * P
            alpha, beta, r_alpha, r_beta = load(of_x, c), load(of_x, C + c), load(of_r, c), load(of_r, C + c)
            write(advance(x, at), advance(r, at), advance(y, at), P, alpha, beta, r_alpha, r_beta)

    def rows(a):
        """Write some of the rows of W columns, each with runs of P columns per channel; the last row may be shorter."""
        rows, C, W = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.BLOCK)
        P, size = load(a, loop_call.POSITIONS), load(a, loop_call.COUNT)
        x, r, y = table(load(a, X)), table(load(a, RESIDUAL)), table(load(a, Y))
        of_x, of_r = table(load(a, OF_X)), table(load(a, OF_RESIDUAL))
        thread, first, last = partition(a, rows)
        columns = table(load(a, loop_call.SCRATCH) + 8 * SCRATCH * W * thread)
        for j in range(W):
            c = j // P % C
            store(columns, j, load(of_x, c))
            store(columns, W + j, load(of_x, C + c))
            store(columns, 2 * W + j, load(of_r, c))
            store(columns, 3 * W + j, load(of_r, C + c))
        for row in range(first, last):
            at = row * W
            if at + W <= size:
                write_columns(advance(x, at), advance(r, at), advance(y, at), W, columns)
            else:
                for j in range(size - at):
                    z = fused(load(x, at + j), load(columns, j), load(columns, W + j))
                    if has_residual:
                        other = load(r, at + j)
                        z += (
                            fused(other, load(columns, 2 * W + j), load(columns, 3 * W + j)) if norm_residual else other
                        )
                    if has_activation and z < zero:
                        z = zero
                    store(y, at + j, z)

    loop = {"planes": planes, "rows": rows, "coefficients": coefficients}[name]
    return outer(loop, variant, as_written=True)


def compile_all() -> None:
    """Compile all the loops."""
    affine_loop("coefficients", False, False, False, False)
    for name in ("planes", "rows"):
        for has_residual, norm_residual in ((False, False), (True, False), (True, True)):
            for has_activation, nontemporal in product((False, True), repeat=2):
                affine_loop(name, has_residual, norm_residual, has_activation, nontemporal)
