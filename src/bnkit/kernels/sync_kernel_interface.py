"""Kernel interface for synchronised batch norm: each process holds a part of the batch, and the statistics are of all parts.

A pass over a batch has two halves: the first computes sums over its values, the second writes the result from the sums.
Between the halves, the processes combine their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from bnkit.kernels.kernel_interface import BatchNormArgs

FinishBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class BackwardState(NamedTuple):
    """The backward pass after its first half.

    Attributes:
        by_gamma, by_beta: The gradients of gamma and beta over this part, (C,).
        finish_backward: Called with the gradients of a mean and of twice a variance, (C,) float64 each, both already divided by
            the number of values in all parts, returns the gradients of ``x`` and of the residual (None without one).
    """

    by_gamma: Tensor
    by_beta: Tensor
    finish_backward: FinishBackward


class SyncKernel(Protocol):
    """The halves of both passes; they are not differentiable.

    In ``args``, the input is not empty, and the statistics are those of all parts, (C,) float64, the variance biased.
    """

    def supports(self, x: Tensor, activation: str | None) -> bool:
        """Whether the kernel supports ``x``, with PyTorch's precision before that activation."""
        ...

    def fuses(self, activation: str | None) -> bool:
        """Whether ``part_forward`` adds a residual and applies this activation; if not, the caller does both."""
        ...

    def part_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the biased variance of each channel, (C,), of float32 or wider."""
        ...

    def part_forward(self, args: BatchNormArgs) -> Tensor:
        """The output; without the residual and the activation if the kernel does not fuse them."""
        ...

    def part_backward(self, gradient: Tensor, args: BatchNormArgs, output: Tensor | None) -> BackwardState:
        """The first half of the backward pass; ``output``: that of ``part_forward``, if it took a residual."""
        ...
