"""The random choices of a run, seeded by its seed: the order of the examples and the initial weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bnkit.model.inspect.dispatch_mode import DispatchMode
from bnkit.seeding import derived_seed, seeded


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` examples in an epoch, the same for every network; int64, on the CPU."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Give networks built inside the same initial weights for one seed wherever their shapes agree.

    The n-th draw of an operation and shape is seeded by the seed, the operation, the shape and n. Other draws in between,
    such as those of an extra layer or bias, do not change the weights of the layers after it, as they would after
    ``torch.manual_seed``.
    """
    with seeded(seed, "weights"), _DrawsByShape(seed):
        yield


class _DrawsByShape(DispatchMode):
    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._drawn: Counter[object] = Counter()

    def run_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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
