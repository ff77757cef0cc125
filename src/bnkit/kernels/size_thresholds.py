"""The sizes from which the compiled loops are faster than PyTorch's kernel: a table made by ``benchmarks/size_thresholds.py``."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

# From this many positions on, a channel of an example counts as a plane.
LEAST_PLANE = 512
# Up to this many channels, PyTorch is slow in the channels-last layout.
FEW_CHANNELS = 16
TABLE = Path(__file__).with_name("size_thresholds.json")


def case(x: Tensor) -> str:
    """The line of the table for ``x``."""
    if x.dim() == 2:
        return "one position"
    if not x.is_contiguous():
        return "channels last, few channels" if x.shape[1] <= FEW_CHANNELS else "channels last"
    return "planes" if x.shape[2:].numel() >= LEAST_PLANE else "few positions"


def is_faster(x: Tensor) -> bool:
    """Whether the compiled loops are faster for ``x``; it does not load them."""
    least = _LEAST[case(x)]
    return least is not None and x.numel() >= least


_LEAST: dict[str, int | None] = json.loads(TABLE.read_text())
