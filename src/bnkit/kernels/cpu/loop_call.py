"""Calling the compiled loops: all take one table of integers, and run on one thread or on the team."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from bnkit.kernels.cpu import intrinsics
from bnkit.kernels.cpu.numba_compile import entry
from bnkit.kernels.cpu.threads import team

# Entries of the table that loops read. Tensors, gamma, beta and the statistics are addresses; 0 stands for none.
INDEX, SIZE, X, RESIDUAL, Y, GRADIENT, DX, D_RESIDUAL, WEIGHT, BIAS, STATISTICS, SUMS, MASK, COUNT, EPS, SCRATCH = (
    range(16)
)
# The following entries are the same in every call with tensors of this layout.
EXAMPLES, CHANNELS, POSITIONS, MODE, AHEAD, BLOCK, DEPTH, THREADS = range(16, 24)
# Entries that the loops do not read.
_START, _FIRST, _BETWEEN, _SECOND, _SCRATCH_SIZE, _CLEARED, _IS_DOUBLE, _PLACES = range(24, 32)

# Values of MODE. The last two do half of a pass each; between them, several processes combine their results.
# OWN: the batch's own statistics, or sums; GIVEN_ONES: given statistics, which do not depend on the batch.
# FIRST_HALF: compute statistics, or sums, only. SECOND_HALF: write the outputs from the given sums.
OWN, GIVEN_ONES, FIRST_HALF, SECOND_HALF = range(4)

_load, _store = intrinsics.load, intrinsics.store
_table, _single, _double = intrinsics.pointer[np.int64], intrinsics.pointer[np.float32], intrinsics.pointer[np.float64]


@njit(forceinline=True)
def update_running_stats(running_mean, running_var, statistics, C, momentum):
    """Update the buffers, (C,) float32, with the batch's mean and unbiased variance; all are addresses."""
    mean, variance, batch = _single(running_mean), _single(running_var), _double(statistics)
    for c in range(C):
        _store(mean, c, np.float32((1.0 - momentum) * _load(mean, c) + momentum * _load(batch, c)))
        _store(variance, c, np.float32((1.0 - momentum) * _load(variance, c) + momentum * _load(batch, 3 * C + c)))


class LoopCall(NamedTuple):
    """The loops to call, and the arguments that are the same in every call with tensors of one layout.

    Attributes:
        address: The address of the numbers, for ``run``.
        numbers: The table, filled in from ``EXAMPLES`` on; it must stay alive while the address is used.
    """

    address: int
    numbers: NDArray[np.int64]


def loop_call_for(
    loops: tuple[int, int, int],
    *,
    threads: int = 1,
    scratch: int = 0,
    cleared: int = 0,
    examples: int = 0,
    channels: int = 0,
    positions: int = 0,
    mode: int = OWN,
    ahead: bool = False,
    block: int = 0,
    depth: int = 1,
    is_double: bool = False,
) -> LoopCall:
    """Prepare the table for ``run``.

    Args:
        loops: The addresses of a loop for the team, of one for a single thread after it, and of another for the team after
            that; 0 for none.
        threads: The number of threads.
        scratch: The size of their workspace, in float64 values.
        cleared: How many of these, from the first, are initialised to 0.
        examples, channels, positions, mode, ahead, block, depth: See ``layout``; the loops document their use.
        is_double: Whether gamma and beta are float64, not float32.
    """
    start, index, size = team()
    numbers = np.zeros(_PLACES, dtype=np.int64)
    numbers[INDEX], numbers[SIZE], numbers[_START] = index if threads > 1 else 0, size, start
    numbers[EXAMPLES:THREADS] = examples, channels, positions, mode, ahead, block, depth
    numbers[THREADS], numbers[_SCRATCH_SIZE], numbers[_CLEARED], numbers[_IS_DOUBLE] = (
        threads,
        scratch,
        cleared,
        is_double,
    )
    numbers[_FIRST], numbers[_BETWEEN], numbers[_SECOND] = loops
    return LoopCall(int(numbers.ctypes.data), numbers)


@njit(forceinline=True)
def partition(table: Any, pieces: int) -> Any:
    """The number of the calling thread, and its pieces: the first, and one past the last."""
    if _load(table, INDEX) == 0:
        return 0, 0, pieces
    thread, threads = intrinsics.number_from(_load(table, INDEX)), intrinsics.number_from(_load(table, SIZE))
    return thread, pieces * thread // threads, pieces * (thread + 1) // threads


@njit(forceinline=True)
def _on_all(start, function, argument, threads):
    if threads > 1:
        intrinsics.run_team(start, function, argument, threads)
    else:
        intrinsics.call_with(function, argument)


def _run(
    call, x, residual, y, gradient, dx, d_residual, weight, bias, statistics, sums, mask, count, eps,
    running_mean, running_var, num_batches_tracked, momentum, by_parameter,
):  # fmt: skip
    """Call the loops of a table. All arguments but ``count``, ``eps`` and ``momentum`` are addresses; 0 stands for none.

    Afterwards, the running buffers and the counter are updated, and ``by_parameter``, (2, C), gets the sums rounded to the
    dtype of gamma and beta. ``sums``, (2, C) float64, are allocated here if 0.
    """
    call_table = _table(call)
    threads, scratch, channels = (
        _load(call_table, THREADS),
        _load(call_table, _SCRATCH_SIZE),
        _load(call_table, CHANNELS),
    )
    workspace = np.empty(scratch + 2 * channels + 1)
    workspace[: _load(call_table, _CLEARED)] = 0.0
    at_workspace = np.int64(workspace.ctypes.data)
    at_eps = at_workspace + 8 * (scratch + 2 * channels)
    _store(_double(at_eps), 0, eps)
    if sums == 0:
        sums = at_workspace + 8 * scratch
    table = np.empty(_START, dtype=np.int64)
    argument = np.int64(table.ctypes.data)
    table_of_loop = _table(argument)
    for slot in range(EXAMPLES, _START):
        _store(table_of_loop, slot, _load(call_table, slot))
    _store(table_of_loop, INDEX, _load(call_table, INDEX))
    _store(table_of_loop, SIZE, _load(call_table, SIZE))
    _store(table_of_loop, X, x)
    _store(table_of_loop, RESIDUAL, residual)
    _store(table_of_loop, Y, y)
    _store(table_of_loop, GRADIENT, gradient)
    _store(table_of_loop, DX, dx)
    _store(table_of_loop, D_RESIDUAL, d_residual)
    _store(table_of_loop, WEIGHT, weight)
    _store(table_of_loop, BIAS, bias)
    _store(table_of_loop, STATISTICS, statistics)
    _store(table_of_loop, SUMS, sums)
    _store(table_of_loop, MASK, mask)
    _store(table_of_loop, COUNT, count)
    _store(table_of_loop, EPS, at_eps)
    _store(table_of_loop, SCRATCH, at_workspace)
    start, between, second = _load(call_table, _START), _load(call_table, _BETWEEN), _load(call_table, _SECOND)
    _on_all(start, _load(call_table, _FIRST), argument, threads)
    if between != 0:
        intrinsics.call_with(between, argument)
    if second != 0:
        _on_all(start, second, argument, threads)
    if running_mean != 0:
        update_running_stats(running_mean, running_var, statistics, channels, momentum)
    if num_batches_tracked != 0:
        _store(_table(num_batches_tracked), 0, _load(_table(num_batches_tracked), 0) + 1)
    if by_parameter != 0:
        for slot in range(2 * channels):
            if _load(call_table, _IS_DOUBLE) != 0:
                _store(_double(by_parameter), slot, _load(_double(sums), slot))
            else:
                _store(_single(by_parameter), slot, np.float32(_load(_double(sums), slot)))
    return workspace.size + table.size  # Numba frees an array after its last use: keep both until here


run = entry(_run)


def _fill(mean, variance, channels, eps, statistics):
    """Fill in the rows that loops read, from (C,) float32; all are addresses."""
    means, variances, rows = _single(mean), _single(variance), _double(statistics)
    for c in range(channels):
        _store(rows, c, np.float64(_load(means, c)))
        _store(rows, channels + c, np.float64(_load(variances, c)))
        _store(rows, 2 * channels + c, 1.0 / np.sqrt(np.float64(_load(variances, c)) + eps))


_filled = entry(_fill)


def given_statistics(mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Statistics (6, C) float64, the last three rows unused, from contiguous (C,) float32; see ``launch.forward``."""
    channels = mean.numel()
    statistics = torch.empty((6, channels), dtype=torch.float64)
    _filled(mean.data_ptr(), variance.data_ptr(), channels, eps, statistics.data_ptr())
    return statistics
