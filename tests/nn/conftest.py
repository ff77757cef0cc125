"""What the tests of this folder share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _compiled_anew():
    """torch.compile gives up on a function after eight versions of it; those of other tests do not count."""
    yield
    torch._dynamo.reset()
