"""How the compiled loops are called: one table of integers for all of them, on one thread or on the team."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from bnkit.kernels import bits
from bnkit.kernels.compiling import entry

# Places in the table. Tensors, gamma, beta and the statistics are addresses; 0 stands for none.
INDEX, SIZE, X, RESIDUAL, Y, GRADIENT, DX, D_RESIDUAL, WEIGHT, BIAS, STATISTICS, SUMS, MASK = range(13)
EXAMPLES, CHANNELS, POSITIONS, COUNT, GIVEN, AHEAD, BLOCK, EPS, SCRATCH, THREADS = range(13, 23)

# What GIVEN may be. The last two do half of a pass each: between them, several processes put together what each has found.
# OWN: the batch's own statistics, or sums; GIVEN_ONES: statistics that are given, and do not depend on the batch.
# FIRST_HALF: take statistics, or sums, and write nothing. SECOND_HALF: write, by the sums that are given.
OWN, GIVEN_ONES, FIRST_HALF, SECOND_HALF = range(4)

_get = bits.get


@njit(forceinline=True)
def share(table: Any, pieces: int) -> Any:
    """Which thread asks, and its pieces: the first, and the one behind the last."""
    if _get(table, INDEX) == 0:
        return 0, 0, pieces
    thread, threads = bits.number_from(_get(table, INDEX)), bits.number_from(_get(table, SIZE))
    return thread, pieces * thread // threads, pieces * (thread + 1) // threads


def _run(
    start, index, size, first, between, second, threads, scratch,
    x, residual, y, gradient, dx, d_residual, weight, bias, statistics, sums, mask,
    examples, channels, positions, count, given, ahead, block, eps,
):  # fmt: skip
    """Call the loop ``first`` on the team; ``between``, if it is not 0, on one thread; then ``second`` on the team.

    ``scratch`` is how many float64 they get to work in, zeros at first.
    """
    room = np.zeros(scratch + 1)
    room[scratch] = eps
    at_room = np.int64(room.ctypes.data)
    table = np.array([
        index if threads > 1 else 0, size, x, residual, y, gradient, dx, d_residual, weight, bias, statistics, sums, mask,
        examples, channels, positions, count, given, ahead, block, at_room + 8 * scratch, at_room, threads,
    ])  # fmt: skip
    argument = table.ctypes.data
    if threads > 1:
        bits.run_team(start, first, argument, threads)
    else:
        bits.call_with(first, argument)
    if between != 0:
        bits.call_with(between, argument)
    if second != 0:
        if threads > 1:
            bits.run_team(start, second, argument, threads)
        else:
            bits.call_with(second, argument)
    return room.size + table.size  # Numba frees an array behind its last use: so not before the calls


run = entry(_run)
