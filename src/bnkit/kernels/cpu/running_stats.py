"""How the running statistics follow a batch's, compiled by Numba: a few values, for which PyTorch would take ten calls."""

from __future__ import annotations

import numpy as np
from numba import njit

from bnkit.kernels.cpu.intrinsics import get, pointer, put

_buffer, _table = pointer[np.float32], pointer[np.float64]


@njit(forceinline=True)
def follow(running_mean, running_var, statistics, C, momentum):
    """Move the buffers, (C,) float32, towards the batch's mean and unbiased variance; all by their addresses."""
    mean, variance, batch = _buffer(running_mean), _buffer(running_var), _table(statistics)
    for c in range(C):
        put(mean, c, np.float32((1.0 - momentum) * get(mean, c) + momentum * get(batch, c)))
        put(variance, c, np.float32((1.0 - momentum) * get(variance, c) + momentum * get(batch, 3 * C + c)))
