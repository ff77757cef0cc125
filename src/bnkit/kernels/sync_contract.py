"""What a kernel does with a part of a batch, where the statistics are those of all parts together.

A pass over a batch has two halves: one takes sums over its values, the other writes by them. Where several processes hold
a part of the batch each, they put the sums together in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from bnkit.kernels.contract import BatchNormArgs

FinishBackward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class BackwardState(NamedTuple):
    """The backward pass after its first half.

    Attributes:
        by_gamma, by_beta: The gradients of gamma and beta over this part, (C,).
        finish_backward: Called with the gradients of a mean and of twice a variance, (C,) float64 each, both already divided by how
            many values there are in all parts, returns the gradients of ``x`` and (None if there is none) the residual.
    """

    by_gamma: Tensor
    by_beta: Tensor
    finish_backward: FinishBackward


class SyncKernel(Protocol):
    """The halves of both passes; none of them is differentiable.

    Of ``args``, the input is not empty, and the statistics are those of all parts, (C,) float64, the variance biased.
    """

    def supports(self, x: Tensor, activation: str | None) -> bool:
        """Whether ``x`` is computed so, as exactly as PyTorch does before that activation."""
        ...

    def fuses(self, activation: str | None) -> bool:
        """Whether ``part_forward`` adds a residual and applies this activation; if not, the caller does both."""
        ...

    def part_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the biased variance of each channel, (C,), of float32 or wider."""
        ...

    def part_forward(self, args: BatchNormArgs) -> Tensor:
        """The output; without the residual and the activation where the kernel does not fuse that."""
        ...

    def part_backward(self, gradient: Tensor, args: BatchNormArgs, output: Tensor | None) -> BackwardState:
        """The first half of the backward pass; ``output``: that of ``part_forward``, if it took a residual."""
        ...
