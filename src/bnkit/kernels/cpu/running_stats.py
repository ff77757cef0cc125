"""How the running statistics follow a batch's, compiled by Numba: a few values, for which PyTorch would take ten calls."""

from __future__ import annotations

import numpy as np
from numba import njit

from bnkit.kernels.cpu.intrinsics import load, pointer, store

_buffer, _table = pointer[np.float32], pointer[np.float64]


@njit(forceinline=True)
def update_running_stats(running_mean, running_var, statistics, C, momentum):
    """Move the buffers, (C,) float32, towards the batch's mean and unbiased variance; all by their addresses."""
    mean, variance, batch = _buffer(running_mean), _buffer(running_var), _table(statistics)
    for c in range(C):
        store(mean, c, np.float32((1.0 - momentum) * load(mean, c) + momentum * load(batch, c)))
        store(variance, c, np.float32((1.0 - momentum) * load(variance, c) + momentum * load(batch, 3 * C + c)))
