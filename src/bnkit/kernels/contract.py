"""What every kernel takes and returns. A kernel owns arithmetic and no state.

Index letters, here and in all kernels: n examples, c channels, hw (or l, dhw) positions. A tensor is (N, C) or
(N, C, L), (N, C, H, W), (N, C, D, H, W); a statistic is (C,) and is taken over n and all positions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class BatchNormOutput(NamedTuple):
    """What a kernel makes of a batch by the batch's own statistics.

    Attributes:
        output: ``activation(gamma * (x - mean) / sqrt(variance + eps) + beta + residual)``; shape, dtype and memory
            format of the input.
        mean: The batch's mean; (C,), float32 or wider, outside the autograd graph.
        unbiased_variance: The batch's variance divided by n - 1, as the running buffers store it; like ``mean``.
            (The output is normalised with the biased one, divided by n.)
    """

    output: Tensor
    mean: Tensor
    unbiased_variance: Tensor


class Kernel(Protocol):
    """The operations of batch normalization: by the batch's statistics, by given ones, and a step of training.

    All take ``x`` of shape (N, C, *), ``weight`` (gamma) and ``bias`` (beta) of shape (C,) or None, ``eps`` > 0, the
    name of an ``activation`` or None, and a ``residual`` of x's shape or None, and are differentiable twice in all of
    them. Statistics accumulate in float32 or wider, whatever the dtype of ``x``.
    """

    @property
    def NAME(self) -> str: ...

    def batch_stats_forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
        residual: Tensor | None,
        mask: Tensor | None,
        count: int | Tensor,
    ) -> BatchNormOutput:
        """Normalise each channel by its mean and variance in this batch.

        ``mask``: bool, broadcastable to (N, 1, *spatial): what is False counts in no statistic, and is scaled and shifted
        like the others. ``count``: how many values of a channel count, 2 or more.
        """
        ...

    def running_stats_forward(
        self,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
        residual: Tensor | None,
    ) -> Tensor:
        """Normalise each channel by ``mean`` and ``variance``, both (C,): the running statistics in evaluation."""
        ...

    def training_step(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        num_batches_tracked: Tensor | None,
        momentum: float,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str | None,
        residual: Tensor | None,
    ) -> Tensor | None:
        """The output by the batch's statistics, and the buffers moved, in one go; None where the kernel cannot.

        ``num_batches_tracked`` counts the batch, if there is one.
        """
        ...
