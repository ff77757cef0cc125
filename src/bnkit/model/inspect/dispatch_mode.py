"""A look at every operation, without what PyTorch would load for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode whose subclasses say in ``run_operation`` what becomes of an operation.

    PyTorch keeps its compiler off a mode's ``__torch_dispatch__``, and loads ``torch._dynamo`` to do so: 800 modules, two
    seconds. Here that is done where it is loaded already; where it is not, nothing compiles.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch need not

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "torch._dynamo" in sys.modules:
            return _uncompiled()(self, func, args, kwargs or {})
        return self.run_operation(func, args, kwargs or {})

    def run_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the operation ``func``."""
        raise NotImplementedError


@cache
def _uncompiled() -> Callable[..., Any]:
    def run_operation(mode: DispatchMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return mode.run_operation(func, args, kwargs)

    disabled: Callable[..., Any] = torch.compiler.disable(run_operation)  # type: ignore[no-untyped-call]
    return disabled
