"""Randomness as an argument: every draw follows from a key, and the global generators are left as they were."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnkit.model.dispatch import Dispatch


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
    seed = derived_seed(*key)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def order_of_examples(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which a run goes through its ``count`` examples; int64, on the CPU. The same for every network."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Networks built inside get the same initial weights for one seed, wherever their shapes agree.

    The n-th draw of an operation and shape follows from the seed, the operation, the shape and n, and from nothing that
    was drawn in between: a layer without a bias, or one more layer, does not shift the weights of those behind it, as it
    does under one ``manual_seed``.
    """
    with seeded(seed, "weights"), _DrawsByShape(seed):
        yield


class _DrawsByShape(Dispatch):
    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._drawn: Counter[object] = Counter()

    def dispatched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            draw = (str(func), _shape(args))
            torch.manual_seed(derived_seed(self._seed, *draw, self._drawn[draw]))
            self._drawn[draw] += 1
        operation: Callable[..., Any] = func
        return operation(*args, **kwargs)


def _shape(args: tuple[Any, ...]) -> object:
    first = args[0] if args else None
    if isinstance(first, Tensor):
        return tuple(first.shape)
    return tuple(first) if isinstance(first, (list, tuple)) else first
