"""The arguments and results of every kernel. Kernels are stateless.

Index letters, here and in all kernels: n examples, c channels, hw (or l, dhw) positions. A tensor is (N, C) or
(N, C, L), (N, C, H, W), (N, C, D, H, W); a statistic is (C,) and is taken over n and all positions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class BatchNormArgs(NamedTuple):
    """The arguments of ``activation(gamma * (input - mean) / sqrt(variance + eps) + beta + residual)``.

    The layer makes one for each call, and passes it down to the loops. The first eight are those of
    ``torch.nn.functional.batch_norm``.

    Attributes:
        input: (N, C, *).
        running_mean, running_var: (C,). In training, the buffers to update with the batch's statistics, if any; otherwise
            the mean and variance that normalise.
        weight, bias: gamma and beta, (C,), or None for 1 and 0.
        training: Whether the batch's own statistics normalise.
        momentum: The weight of the batch in the update of the buffers.
        eps: Added to the variance; above 0.
        activation: A name, or None.
        residual: A tensor of the input's shape, or None.
        mask: bool, (N, 1, *), or None. False values are excluded from the statistics, and normalised like the others.
        num_values: The number of values per channel in the statistics; in training, 2 or more.
        num_batches_tracked: The buffer that counts batches, or None.
    """

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float
    activation: str | None = None
    residual: Tensor | None = None
    mask: Tensor | None = None
    num_values: int | Tensor = 1
    num_batches_tracked: Tensor | None = None

    @property
    def has_activated_residual(self) -> bool:
        """Whether there is an activation after a residual: then the residual has a separate gradient."""
        return self.residual is not None and self.activation is not None

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and variance that normalise, if not those of the batch."""
        assert self.running_mean is not None and self.running_var is not None
        return self.running_mean, self.running_var


class BatchNormOutput(NamedTuple):
    """The result of normalising a batch with its own statistics.

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
    """The operations of batch normalization: with the batch's statistics, with given ones, and a training step.

    All are twice differentiable in input, weight, bias and residual. Statistics accumulate in float32 or wider, for
    every dtype of the input.
    """

    @property
    def NAME(self) -> str: ...

    def batch_stats_forward(self, args: BatchNormArgs) -> BatchNormOutput:
        """Normalise each channel by its mean and variance in this batch, without updating buffers."""
        ...

    def running_stats_forward(self, args: BatchNormArgs) -> Tensor:
        """Normalise each channel by ``args.statistics``: the running ones in evaluation."""
        ...

    def training_step(self, args: BatchNormArgs) -> Tensor | None:
        """The output with the batch's statistics, with the buffers updated in the same pass; None if unsupported.

        Only called with buffers and without a mask.
        """
        ...
