"""What stands between one node of the autograd graph and the loops of a device: two passes over a tensor.

On the CPU they are compiled by Numba (``passes``), on a GPU by Triton (``gpu_passes``). Whatever is above them, is there once.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple, Protocol, cast

from torch import Tensor


class Moving(NamedTuple):
    """The running buffers, (C,), which follow the batch's statistics by ``momentum``, in place."""

    mean: Tensor
    var: Tensor
    momentum: float


class Passes(Protocol):
    """The passes of a device. Tensors are dense, and lie as ``x`` does; see ``passes`` for what the arguments mean."""

    @property
    def NEEDS_OUTPUT(self) -> bool:
        """Whether the backward pass reads the output where a residual was added before the activation.

        It tells where that was flat. Otherwise the residual is read, and the activation's argument computed anew.
        """
        ...

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mask: Tensor | None,
        count: int,
        statistics: Tensor,
        activation: str | None,
        eps: float,
        is_given: bool,
        wide: bool,
        moving: Moving | None = None,
    ) -> Tensor:
        """The output; the statistics are filled in, or used as they are, and the buffers moved."""
        ...

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        bent: Tensor | None,
        mask: Tensor | None,
        count: int,
        statistics: Tensor,
        activation: str | None,
        is_given: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of x, of the residual (if ``bent`` is given), and of gamma and beta, (2, C).

        ``bent``: where a residual was added before the activation, the output or the residual, see ``NEEDS_OUTPUT``.
        """
        ...


def passes_of(x: Tensor, *, interpreted: bool) -> Passes:
    """The passes for the device of ``x``; ``interpreted``: Triton's, by its interpreter, on the CPU too."""
    return _load("gpu_passes" if interpreted or x.device.type != "cpu" else "passes")


@cache
def _load(name: str) -> Passes:
    return cast(Passes, importlib.import_module(f"bnkit.kernels.{name}"))
