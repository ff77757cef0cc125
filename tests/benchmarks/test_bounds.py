"""The traffic that a layer is set against is all of it, in either order."""

from __future__ import annotations

import pytest
import torch
from benchmarks.bounds import mover


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True], ids=["in the order of memory", "channel by channel"])
@pytest.mark.parametrize("both", [False, True], ids=["one", "two"])
def test_all_bytes_are_counted(both, channels):
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(5, 3, 16, 20, generator=generator) for _ in range(2))
    y = torch.full_like(x, torch.nan)
    mover(x, g, y, both=both, by_channel=channels)()
    torch.testing.assert_close(y, x + g if both else x, rtol=0, atol=0)
