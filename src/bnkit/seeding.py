"""Seeds derived from keys, and context managers that seed the global generators and restore them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*key: object) -> int:
    """A 63-bit seed derived from ``key`` by SHA-256.

    Examples:
        >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, "epoch", 2)
        True
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and ``random`` from ``key``, and restore them afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), seeded_on_cpu(*key):
        torch.manual_seed(derived_seed(*key))
        yield


@contextmanager
def seeded_on_cpu(*key: object) -> Iterator[None]:
    """As ``seeded``, for the CPU only: does not synchronise with a GPU, and works in the worker processes of a DataLoader."""
    seed = derived_seed(*key)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
