"""Seeds that follow from a key, and the global generators under one, left as they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*key: object) -> int:
    """A 63-bit seed that follows from ``key``, and looks unrelated for any other.

    Example:
        >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, "epoch", 2)
        True
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Inside, the global generators of torch, NumPy and ``random`` start from ``key``; afterwards they are as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), seeded_on_cpu(*key):
        torch.manual_seed(derived_seed(*key))
        yield


@contextmanager
def seeded_on_cpu(*key: object) -> Iterator[None]:
    """As ``seeded``, for what draws on the CPU alone: waits for no GPU, and works in the process of a loader."""
    seed = derived_seed(*key)
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
