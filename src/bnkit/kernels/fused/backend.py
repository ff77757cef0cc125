"""What stands between one node of the autograd graph and the loops of a device: two passes over a tensor.

On the CPU they are compiled by Numba (``cpu.launch``), on a GPU by Triton (``gpu.launch``). Whatever is above them, is there once.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Literal, NamedTuple, Protocol, cast

from torch import Tensor


class RunningStats(NamedTuple):
    """The running buffers, (C,), which follow the batch's statistics by ``momentum``, in place; the counter counts the batch."""

    mean: Tensor
    var: Tensor
    momentum: float
    num_batches_tracked: Tensor | None = None


class Backend(Protocol):
    """The passes of a device. Tensors are dense, and lie as ``x`` does; see ``cpu.launch`` for what the arguments mean."""

    def backward_operand(self, activation: str | None, has_residual: bool) -> Literal["output", "residual"] | None:
        """What the backward pass reads besides ``x``: by ``x`` alone the slope of the activation may not be known, or dear.

        ``has_residual``: whether a residual was added before the activation.
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
        float64_compute: bool,
        running_stats: RunningStats | None = None,
    ) -> Tensor:
        """The output; the statistics are filled in, or used as they are, and the buffers moved."""
        ...

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        saved_operand: Tensor | None,
        mask: Tensor | None,
        count: int,
        statistics: Tensor,
        activation: str | None,
        is_given: bool,
        has_residual: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The gradients of x, of the residual (if ``has_residual``, before an activation), and of gamma and beta, (2, C).

        ``saved_operand``: what ``backward_operand`` names.
        """
        ...


def backend_of(x: Tensor, *, interpreted: bool) -> Backend:
    """The passes for the device of ``x``; ``interpreted``: Triton's, by its interpreter, on the CPU too."""
    return _load("gpu.launch" if interpreted or x.device.type != "cpu" else "cpu.launch")


@cache
def _load(name: str) -> Backend:
    return cast(Backend, importlib.import_module(f"bnkit.kernels.{name}"))
