"""Loops over columns, compiled by Numba: a table whose rows hold one or a few values of each channel.

Channels last, and (N, C): rows of C columns. Several rows are treated as one wide row, so that a few channels also fill a
vector. Each thread processes some rows twice; between the two, one thread adds up the sums. (N, C, P) with few positions P:
rows of C · P columns. If these are few, they are processed in the same way, so that a thread reads memory sequentially;
otherwise a thread takes a block of channels in all rows.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call
from bnkit.kernels.cpu.channels_last_row_steps import row_steps
from bnkit.kernels.cpu.element_access import elements
from bnkit.kernels.cpu.intrinsics import advance, load, store
from bnkit.kernels.cpu.layout import COLUMNS, ROOM, SUMS
from bnkit.kernels.cpu.loop_call import D_RESIDUAL, DX, GRADIENT, RESIDUAL, X, Y, partition
from bnkit.kernels.cpu.numba_compile import Variant, inner, outer


@cache
def row_loop(name: str, variant: Variant) -> int:
    """The address of a loop, for ``loop_call.loop_call_for``.

    Args:
        name: "forward" and "backward" process blocks of channels; "forward_sums", "forward_finalize" and "forward_write"
            are the steps by rows, and likewise for backward.
        variant: The properties that it is compiled for.
    """
    (
        estimate_shift, accumulate, finalize, broadcast, write,
        accumulate_backward, finalize_backward, broadcast_backward, write_backward,
    ) = row_steps(variant)  # fmt: skip
    blocks = elements(
        variant.kind, variant.activation, nontemporal=variant.nontemporal, float64_compute=variant.float64_compute
    )
    pointer, numbers, table = blocks.pointer, blocks.numbers, intrinsics.pointer[np.float64]
    step = partial(inner, variant=str(variant))

    @step
    def thread_workspace(a, part, W):
        """The workspace of one thread for rows of W columns: its sums, the coefficients of the columns, temporary sums."""
        at, threads = load(a, loop_call.SCRATCH), load(a, loop_call.THREADS)
        others = at + 8 * (SUMS * (threads + 1) + (COLUMNS + ROOM) * part) * W
        return table(at + 8 * SUMS * W * part), numbers(others), numbers(others + 8 * COLUMNS * W)

    @step
    def merge(a, sums, W, rest):
        """Add the sums of the other threads, and those of the ``rest`` of columns, to the first thread's."""
        for part in range(1, load(a, loop_call.THREADS)):
            others = advance(sums, SUMS * W * part)
            for j in range(SUMS * W):
                store(sums, j, load(sums, j) + load(others, j))
        few = advance(sums, SUMS * W * load(a, loop_call.THREADS))
        for j in range(rest):
            store(sums, j, load(sums, j) + load(few, j))
            store(sums, W + j, load(sums, W + j) + load(few, rest + j))

    def forward(a):
        """The whole forward pass for blocks of channels, over all rows."""
        rows, C = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS)
        P, count, block = load(a, loop_call.POSITIONS), load(a, loop_call.COUNT), load(a, loop_call.BLOCK)
        x, r, y = pointer(load(a, X)), pointer(load(a, RESIDUAL)), pointer(load(a, Y))
        saved_statistics, eps = table(load(a, loop_call.STATISTICS)), load(table(load(a, loop_call.EPS)), 0)
        thread, begin, end = partition(a, (C + block - 1) // block)
        own = load(a, loop_call.SCRATCH) + 8 * (SUMS + COLUMNS + ROOM) * block * P * thread
        sums, columns = table(own), numbers(own + 8 * SUMS * block * P)
        workspace = numbers(own + 8 * (SUMS + COLUMNS) * block * P)
        for piece in range(begin, end):
            first, last = piece * block, min(piece * block + block, C)
            W, at = (last - first) * P, first * P
            if load(a, loop_call.MODE) != loop_call.GIVEN_ONES:
                for j in range(2 * W):
                    store(sums, j, 0.0)
                estimate_shift(x, C * P, rows, C, P, first, last, columns, W)
                accumulate(advance(x, at), C * P, 0, rows, W, columns, sums, workspace)
                finalize(
                    x,
                    C * P,
                    rows,
                    C,
                    P,
                    first,
                    last,
                    sums,
                    columns,
                    W,
                    count,
                    eps,
                    saved_statistics,
                    table(load(a, loop_call.SUMS)),
                )
            if load(a, loop_call.MODE) != loop_call.FIRST_HALF:
                broadcast(
                    columns, W, C, P, first, last, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics
                )
                write(advance(x, at), advance(r, at), advance(y, at), C * P, 0, rows, W, columns)

    def backward(a):
        """The whole backward pass for blocks of channels."""
        rows, C = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS)
        P, count, block = load(a, loop_call.POSITIONS), load(a, loop_call.COUNT), load(a, loop_call.BLOCK)
        mode = load(a, loop_call.MODE)
        x, g, y = pointer(load(a, X)), pointer(load(a, GRADIENT)), pointer(load(a, Y))
        dx, dr, saved_statistics = (
            pointer(load(a, DX)),
            pointer(load(a, D_RESIDUAL)),
            table(load(a, loop_call.STATISTICS)),
        )
        thread, begin, end = partition(a, (C + block - 1) // block)
        own = load(a, loop_call.SCRATCH) + 8 * (SUMS + COLUMNS + ROOM) * block * P * thread
        sums, columns = table(own), numbers(own + 8 * SUMS * block * P)
        workspace = numbers(own + 8 * (SUMS + COLUMNS) * block * P)
        for piece in range(begin, end):
            first, last = piece * block, min(piece * block + block, C)
            W, at = (last - first) * P, first * P
            xs, gs, ys = advance(x, at), advance(g, at), advance(y, at)
            broadcast(
                columns, W, C, P, first, last, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics
            )
            if mode != loop_call.SECOND_HALF:
                for j in range(2 * W):
                    store(sums, j, 0.0)
                accumulate_backward(xs, gs, ys, C * P, 0, rows, W, columns, sums, workspace)
                finalize_backward(C, P, first, last, sums, W, saved_statistics, table(load(a, loop_call.SUMS)))
            if mode != loop_call.FIRST_HALF:
                broadcast_backward(
                    columns, W, C, P, first, last, count, mode, saved_statistics, table(load(a, loop_call.SUMS))
                )
                write_backward(xs, gs, ys, advance(dx, at), advance(dr, at), C * P, 0, rows, W, columns)

    def forward_sums(a):
        """Sum some of the wide rows, for ``forward_finalize``."""
        rows, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH)
        W, narrow, x = load(a, loop_call.POSITIONS), load(a, loop_call.BLOCK), pointer(load(a, X))
        thread, first, last = partition(a, rows)
        sums, columns, workspace = thread_workspace(a, thread, W)
        estimate_shift(x, C * P, narrow, C, P, 0, C, columns, W)
        accumulate(x, W, first, last, W, columns, sums, workspace)

    def forward_finalize(a):
        """Compute the statistics from the sums of all threads, and of the rows that did not fill a wide one."""
        rows, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH)
        W, narrow, x = load(a, loop_call.POSITIONS), load(a, loop_call.BLOCK), pointer(load(a, X))
        sums, columns, workspace = thread_workspace(a, 0, W)
        rest = narrow * C * P - rows * W  # less than a wide row: its columns are the first ones
        few, _, _ = thread_workspace(a, load(a, loop_call.THREADS), W)
        if rest > 0:
            accumulate(advance(x, rows * W), rest, 0, 1, rest, columns, few, workspace)
        merge(a, sums, W, rest)
        saved_statistics, eps = table(load(a, loop_call.STATISTICS)), load(table(load(a, loop_call.EPS)), 0)
        totals, count = table(load(a, loop_call.SUMS)), load(a, loop_call.COUNT)
        finalize(x, C * P, narrow, C, P, 0, C, sums, columns, W, count, eps, saved_statistics, totals)

    def forward_write(a):
        """Write some of the wide rows."""
        rows, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH)
        W, narrow = load(a, loop_call.POSITIONS), load(a, loop_call.BLOCK)
        x, r, y = pointer(load(a, X)), pointer(load(a, RESIDUAL)), pointer(load(a, Y))
        thread, first, last = partition(a, rows)
        _, columns, _ = thread_workspace(a, thread, W)
        saved_statistics = table(load(a, loop_call.STATISTICS))
        broadcast(columns, W, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
        write(x, r, y, W, first, last, W, columns)
        at = rows * W
        rest = narrow * C * P - at
        if last == rows and rest > 0:  # the remainder is less than a wide row; its columns are the first ones
            broadcast(columns, rest, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
            write(advance(x, at), advance(r, at), advance(y, at), W, 0, 1, rest, columns)

    def backward_sums(a):
        """Sum some of the wide rows, for ``backward_finalize``."""
        rows, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH)
        W, narrow = load(a, loop_call.POSITIONS), load(a, loop_call.BLOCK)
        x, g, y = pointer(load(a, X)), pointer(load(a, GRADIENT)), pointer(load(a, Y))
        thread, first, last = partition(a, rows)
        sums, columns, workspace = thread_workspace(a, thread, W)
        saved_statistics = table(load(a, loop_call.STATISTICS))
        broadcast(columns, W, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
        accumulate_backward(x, g, y, W, first, last, W, columns, sums, workspace)
        at = rows * W
        rest = narrow * C * P - at
        if last == rows and rest > 0:
            few, _, _ = thread_workspace(a, load(a, loop_call.THREADS), W)
            broadcast(columns, rest, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
            accumulate_backward(advance(x, at), advance(g, at), advance(y, at), W, 0, 1, rest, columns, few, workspace)

    def backward_finalize(a):
        """Compute the gradients of gamma and beta from the sums of all threads."""
        C, P, W = load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH), load(a, loop_call.POSITIONS)
        sums, _, _ = thread_workspace(a, 0, W)
        merge(a, sums, W, load(a, loop_call.BLOCK) * C * P - load(a, loop_call.EXAMPLES) * W)
        finalize_backward(C, P, 0, C, sums, W, table(load(a, loop_call.STATISTICS)), table(load(a, loop_call.SUMS)))

    def backward_write(a):
        """Write the gradients of some of the wide rows."""
        rows, C, P = load(a, loop_call.EXAMPLES), load(a, loop_call.CHANNELS), load(a, loop_call.DEPTH)
        W, narrow = load(a, loop_call.POSITIONS), load(a, loop_call.BLOCK)
        x, g, y = pointer(load(a, X)), pointer(load(a, GRADIENT)), pointer(load(a, Y))
        dx, dr, saved_statistics = (
            pointer(load(a, DX)),
            pointer(load(a, D_RESIDUAL)),
            table(load(a, loop_call.STATISTICS)),
        )
        thread, first, last = partition(a, rows)
        _, columns, _ = thread_workspace(a, thread, W)
        count, mode = load(a, loop_call.COUNT), load(a, loop_call.MODE)
        broadcast(columns, W, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
        broadcast_backward(columns, W, C, P, 0, C, count, mode, saved_statistics, table(load(a, loop_call.SUMS)))
        write_backward(x, g, y, dx, dr, W, first, last, W, columns)
        at = rows * W
        rest = narrow * C * P - at
        if last == rows and rest > 0:
            broadcast(columns, rest, C, P, 0, C, load(a, loop_call.WEIGHT), load(a, loop_call.BIAS), saved_statistics)
            broadcast_backward(columns, rest, C, P, 0, C, count, mode, saved_statistics, table(load(a, loop_call.SUMS)))
            xs, gs, ys = advance(x, at), advance(g, at), advance(y, at)
            write_backward(xs, gs, ys, advance(dx, at), advance(dr, at), W, 0, 1, rest, columns)

    loops = (
        forward, backward, forward_sums, forward_finalize, forward_write, backward_sums, backward_finalize, backward_write,
    )  # fmt: skip
    return outer({loop.__name__: loop for loop in loops}[name], str(variant))
