"""What the tests of this folder share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.memory.networks import normalised


@pytest.fixture(params=["torch", "aten", "numba"])
def layers(request):
    """A convolution, normalization and ReLU, a convolution."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
    norm = nn.Sequential(*normalised(request.param, 4))
    return nn.ModuleList([first, norm, last])


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
