"""What the tests of this folder share."""

from __future__ import annotations

import pytest
import torch

from tests.cases.kernels import INTERPRETED

# Through Triton's interpreter, which has to be there before Triton is imported: `test_gpu_triton.py` starts it.
collect_ignore = [] if INTERPRETED else ["test_gpu_ways.py"]


@pytest.fixture(autouse=True)
def _compiled_anew():
    """torch.compile gives up on a function after eight versions of it; those of other tests do not count."""
    yield
    torch._dynamo.reset()
