"""Running statistics as the loops take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnkit.kernels.cpu import intrinsics
from bnkit.kernels.cpu.compiling import entry

_load: Any = intrinsics.load
_store: Any = intrinsics.store
_single: Any = intrinsics.pointer[np.float32]
_double: Any = intrinsics.pointer[np.float64]


def _fill(mean: Any, variance: Any, channels: Any, eps: Any, statistics: Any) -> None:
    """The rows that loops read, from (C,) float32; all by their addresses."""
    means, variances, rows = _single(mean), _single(variance), _double(statistics)
    for c in range(channels):
        _store(rows, c, np.float64(_load(means, c)))
        _store(rows, channels + c, np.float64(_load(variances, c)))
        _store(rows, 2 * channels + c, 1.0 / np.sqrt(np.float64(_load(variances, c)) + eps))


_compiled = entry(_fill)


def given_statistics(mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """(6, C) float64, of which the last three rows are only room, from (C,) float32, contiguous; see ``launch.forward``."""
    channels = mean.numel()
    statistics = torch.empty((6, channels), dtype=torch.float64)
    _compiled(mean.data_ptr(), variance.data_ptr(), channels, eps, statistics.data_ptr())
    return statistics
