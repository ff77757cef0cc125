"""The initial weights of a network: drawn from the seed of a run, and distributed as the experiment says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.model.inspect.dispatch_mode import DispatchMode
from bnkit.seeding import derived_seed, seeded


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


def init_weights(model: nn.Module, init: str, scale: float = 1.0) -> None:
    """Re-initialise the weights of all convolutions and linear layers in place; biases are unchanged.

    Args:
        model: The network.
        init: "xavier" (Glorot & Bengio 2010, uniform, gain 1), "kaiming" (He et al. 2015, normal, fan-in, for ReLU), or
            "default".
        scale: Multiplies the weights afterwards.
    """
    if init == "default" and scale == 1.0:
        return
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            if init != "default":
                (_xavier if init == "xavier" else _kaiming)(module.weight)
            if scale != 1.0:
                with torch.no_grad():
                    module.weight.mul_(scale)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
