"""Loops over columns, compiled by Numba: a table whose every row holds a value, or a few, of each channel.

Channels last, and (N, C): rows of C columns, of which several are taken as one wide row, so that a few channels fill a
vector too. The threads take some rows each, twice, with a step between in which one of them adds up. And (N, C, P) with few
positions P: rows of C · P columns; the same where these are few, so that a thread goes through memory in its order; else a
thread takes a block of channels, all rows of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bnkit.kernels.cpu import intrinsics, loop_call, row_steps
from bnkit.kernels.cpu.compiling import inner, outer
from bnkit.kernels.cpu.elements import elements
from bnkit.kernels.cpu.intrinsics import behind, get, put
from bnkit.kernels.cpu.loop_call import D_RESIDUAL, DX, GRADIENT, RESIDUAL, X, Y, share
from bnkit.kernels.cpu.variant import Variant

# What these mean is filled in for each kind of element and activation.
pointer = table = numbers = None
guess = add_up = settle = spread = write = add_up_back = settle_back = spread_back = write_back = None

# What a thread has to work in, for each of W columns: the sums, 2, float64; then, of what is computed in, what a column is
# computed with, 6 (the first is the guess of the mean until that is known), and the sums of some rows, 2.
SUMS, COLUMNS, ROOM = 2, 6, 2


def room_for_blocks(W: int, threads: int) -> int:
    """How many float64 the threads work in, for blocks of W columns."""
    return (SUMS + COLUMNS + ROOM) * W * threads


def room_for_rows(W: int, threads: int) -> tuple[int, int]:
    """How many float64 the threads work in, for rows of W columns; and how many of them begin as 0, the sums.

    Besides theirs there are the sums of what is left: less than a wide row.
    """
    return (SUMS * (threads + 1) + (COLUMNS + ROOM) * threads) * W, SUMS * (threads + 1) * W


def forward(a):
    """All of the forward pass for blocks of channels, with every row of them."""
    rows, C = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS)
    P, count, block = get(a, loop_call.POSITIONS), get(a, loop_call.COUNT), get(a, loop_call.BLOCK)
    x, r, y = pointer(get(a, X)), pointer(get(a, RESIDUAL)), pointer(get(a, Y))
    known, eps = table(get(a, loop_call.STATISTICS)), get(table(get(a, loop_call.EPS)), 0)
    thread, begin, end = share(a, (C + block - 1) // block)
    own = get(a, loop_call.SCRATCH) + 8 * (SUMS + COLUMNS + ROOM) * block * P * thread
    sums, columns = table(own), numbers(own + 8 * SUMS * block * P)
    room = numbers(own + 8 * (SUMS + COLUMNS) * block * P)
    for piece in range(begin, end):
        first, last = piece * block, min(piece * block + block, C)
        W, at = (last - first) * P, first * P
        if get(a, loop_call.GIVEN) != loop_call.GIVEN_ONES:
            for j in range(2 * W):
                put(sums, j, 0.0)
            guess(x, C * P, rows, C, P, first, last, columns, W)
            add_up(behind(x, at), C * P, 0, rows, W, columns, sums, room)
            settle(
                x, C * P, rows, C, P, first, last, sums, columns, W, count, eps, known, table(get(a, loop_call.SUMS))
            )
        if get(a, loop_call.GIVEN) != loop_call.FIRST_HALF:
            spread(columns, W, C, P, first, last, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
            write(behind(x, at), behind(r, at), behind(y, at), C * P, 0, rows, W, columns)


def backward(a):
    """All of the backward pass for blocks of channels."""
    rows, C = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS)
    P, count, block = get(a, loop_call.POSITIONS), get(a, loop_call.COUNT), get(a, loop_call.BLOCK)
    mode = get(a, loop_call.GIVEN)
    x, g, y = pointer(get(a, X)), pointer(get(a, GRADIENT)), pointer(get(a, Y))
    dx, dr, known = pointer(get(a, DX)), pointer(get(a, D_RESIDUAL)), table(get(a, loop_call.STATISTICS))
    thread, begin, end = share(a, (C + block - 1) // block)
    own = get(a, loop_call.SCRATCH) + 8 * (SUMS + COLUMNS + ROOM) * block * P * thread
    sums, columns = table(own), numbers(own + 8 * SUMS * block * P)
    room = numbers(own + 8 * (SUMS + COLUMNS) * block * P)
    for piece in range(begin, end):
        first, last = piece * block, min(piece * block + block, C)
        W, at = (last - first) * P, first * P
        xs, gs, ys = behind(x, at), behind(g, at), behind(y, at)
        spread(columns, W, C, P, first, last, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
        if mode != loop_call.SECOND_HALF:
            for j in range(2 * W):
                put(sums, j, 0.0)
            add_up_back(xs, gs, ys, C * P, 0, rows, W, columns, sums, room)
            settle_back(C, P, first, last, sums, W, known, table(get(a, loop_call.SUMS)))
        if mode != loop_call.FIRST_HALF:
            spread_back(columns, W, C, P, first, last, count, mode, known, table(get(a, loop_call.SUMS)))
            write_back(xs, gs, ys, behind(dx, at), behind(dr, at), C * P, 0, rows, W, columns)


def forward_sums(a):
    """Add up some of the wide rows, for ``forward_settle``."""
    rows, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH)
    W, narrow, x = get(a, loop_call.POSITIONS), get(a, loop_call.BLOCK), pointer(get(a, X))
    thread, first, last = share(a, rows)
    sums, columns, room = own_part(a, thread, W)
    guess(x, C * P, narrow, C, P, 0, C, columns, W)
    add_up(x, W, first, last, W, columns, sums, room)


def forward_settle(a):
    """Take the statistics from the sums of all threads, and of the rows that did not make up a wide one."""
    rows, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH)
    W, narrow, x = get(a, loop_call.POSITIONS), get(a, loop_call.BLOCK), pointer(get(a, X))
    sums, columns, room = own_part(a, 0, W)
    rest = narrow * C * P - rows * W  # less than a wide row: its columns are the first ones
    few, _, _ = own_part(a, get(a, loop_call.THREADS), W)
    if rest > 0:
        add_up(behind(x, rows * W), rest, 0, 1, rest, columns, few, room)
    merge(a, sums, W, rest)
    known, eps = table(get(a, loop_call.STATISTICS)), get(table(get(a, loop_call.EPS)), 0)
    totals, count = table(get(a, loop_call.SUMS)), get(a, loop_call.COUNT)
    settle(x, C * P, narrow, C, P, 0, C, sums, columns, W, count, eps, known, totals)


def forward_write(a):
    """Write some of the wide rows."""
    rows, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH)
    W, narrow = get(a, loop_call.POSITIONS), get(a, loop_call.BLOCK)
    x, r, y = pointer(get(a, X)), pointer(get(a, RESIDUAL)), pointer(get(a, Y))
    thread, first, last = share(a, rows)
    _, columns, _ = own_part(a, thread, W)
    known = table(get(a, loop_call.STATISTICS))
    spread(columns, W, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
    write(x, r, y, W, first, last, W, columns)
    at = rows * W
    rest = narrow * C * P - at
    if last == rows and rest > 0:  # what is left is less than a wide row; its columns are the first ones
        spread(columns, rest, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
        write(behind(x, at), behind(r, at), behind(y, at), W, 0, 1, rest, columns)


def backward_sums(a):
    """Add up some of the wide rows, for ``backward_settle``."""
    rows, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH)
    W, narrow = get(a, loop_call.POSITIONS), get(a, loop_call.BLOCK)
    x, g, y = pointer(get(a, X)), pointer(get(a, GRADIENT)), pointer(get(a, Y))
    thread, first, last = share(a, rows)
    sums, columns, room = own_part(a, thread, W)
    known = table(get(a, loop_call.STATISTICS))
    spread(columns, W, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
    add_up_back(x, g, y, W, first, last, W, columns, sums, room)
    at = rows * W
    rest = narrow * C * P - at
    if last == rows and rest > 0:
        few, _, _ = own_part(a, get(a, loop_call.THREADS), W)
        spread(columns, rest, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
        add_up_back(behind(x, at), behind(g, at), behind(y, at), W, 0, 1, rest, columns, few, room)


def backward_settle(a):
    """Take the gradients of gamma and beta from the sums of all threads."""
    C, P, W = get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH), get(a, loop_call.POSITIONS)
    sums, _, _ = own_part(a, 0, W)
    merge(a, sums, W, get(a, loop_call.BLOCK) * C * P - get(a, loop_call.EXAMPLES) * W)
    settle_back(C, P, 0, C, sums, W, table(get(a, loop_call.STATISTICS)), table(get(a, loop_call.SUMS)))


def backward_write(a):
    """Write the gradients of some of the wide rows."""
    rows, C, P = get(a, loop_call.EXAMPLES), get(a, loop_call.CHANNELS), get(a, loop_call.DEPTH)
    W, narrow = get(a, loop_call.POSITIONS), get(a, loop_call.BLOCK)
    x, g, y = pointer(get(a, X)), pointer(get(a, GRADIENT)), pointer(get(a, Y))
    dx, dr, known = pointer(get(a, DX)), pointer(get(a, D_RESIDUAL)), table(get(a, loop_call.STATISTICS))
    thread, first, last = share(a, rows)
    _, columns, _ = own_part(a, thread, W)
    count, mode = get(a, loop_call.COUNT), get(a, loop_call.GIVEN)
    spread(columns, W, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
    spread_back(columns, W, C, P, 0, C, count, mode, known, table(get(a, loop_call.SUMS)))
    write_back(x, g, y, dx, dr, W, first, last, W, columns)
    at = rows * W
    rest = narrow * C * P - at
    if last == rows and rest > 0:
        spread(columns, rest, C, P, 0, C, get(a, loop_call.WEIGHT), get(a, loop_call.BIAS), known)
        spread_back(columns, rest, C, P, 0, C, count, mode, known, table(get(a, loop_call.SUMS)))
        xs, gs, ys = behind(x, at), behind(g, at), behind(y, at)
        write_back(xs, gs, ys, behind(dx, at), behind(dr, at), W, 0, 1, rest, columns)


def own_part(a, part, W):
    """What one of the threads has to work in, for rows of W columns: its sums, what columns are computed with, some room."""
    at, threads = get(a, loop_call.SCRATCH), get(a, loop_call.THREADS)
    others = at + 8 * (SUMS * (threads + 1) + (COLUMNS + ROOM) * part) * W
    return table(at + 8 * SUMS * W * part), numbers(others), numbers(others + 8 * COLUMNS * W)


def merge(a, sums, W, rest):
    """Add to the first thread's sums those of the others, and those of the ``rest`` of columns."""
    for part in range(1, get(a, loop_call.THREADS)):
        others = behind(sums, SUMS * W * part)
        for j in range(SUMS * W):
            put(sums, j, get(sums, j) + get(others, j))
    few = behind(sums, SUMS * W * get(a, loop_call.THREADS))
    for j in range(rest):
        put(sums, j, get(sums, j) + get(few, j))
        put(sums, W + j, get(sums, W + j) + get(few, rest + j))


_LOOPS = {
    loop.__name__: loop
    for loop in (
        forward, backward, forward_sums, forward_settle, forward_write, backward_sums, backward_settle, backward_write,
    )
}  # fmt: skip


@cache
def column_loop(name: str, variant: Variant) -> int:
    """The address of a loop, for ``loop_call.plan_for``.

    Args:
        name: "forward" and "backward" take blocks of channels; "forward_sums", "forward_settle" and "forward_write" are
            the steps by rows, and so backward.
        variant: What it is compiled for.
    """
    blocks = elements(variant.kind, variant.activation, streams=variant.streams, wide=variant.wide)
    names: dict[str, Any] = {**blocks._asdict(), **variant._asdict(), "nothing": blocks.number(0)}
    names["table"] = intrinsics.pointer[np.float64]
    for part in (*row_steps.PARTS, own_part, merge):
        names[part.__name__] = inner(part, names, str(variant))
    return outer(_LOOPS[name], names, str(variant))
