"""A dispatch mode that sees every operation without loading ``torch._dynamo``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode whose subclasses implement ``run_operation``.

    PyTorch disables its compiler for a mode's ``__torch_dispatch__``, and loads ``torch._dynamo`` for that: 800
    modules, in two seconds. Here this is done only if it is loaded already; otherwise nothing can be compiled anyway.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch need not do it

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
