"""What every kernel takes and returns. A kernel owns arithmetic and no state.

Index letters, here and in all kernels: n examples, c channels, hw (or l, dhw) positions. A tensor is (N, C) or
(N, C, L), (N, C, H, W), (N, C, D, H, W); a statistic is (C,) and is taken over n and all positions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class BatchNormArgs(NamedTuple):
    """What ``activation(gamma * (input - mean) / sqrt(variance + eps) + beta + residual)`` is computed from, and how.

    The layer makes one for each call, and it goes down to the loops. The first eight are those of
    ``torch.nn.functional.batch_norm``.

    Attributes:
        input: (N, C, *).
        running_mean, running_var: (C,). In training, the buffers that follow the batch's statistics, if any; otherwise the
            mean and variance that normalise.
        weight, bias: gamma and beta, (C,), or None for 1 and 0.
        training: Whether the batch's own statistics normalise.
        momentum: By how much the buffers move.
        eps: Added to the variance; above 0.
        activation: A name, or None.
        residual: Of the input's shape, or None.
        mask: bool, (N, 1, *), or None. What is False counts in no statistic, and is scaled and shifted like the others.
        num_values: How many values of a channel count; in training, 2 or more.
        num_batches_tracked: Counts the batch; a buffer, or None.
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
        """Whether there is an activation behind a residual: then the residual has a gradient of its own."""
        return self.residual is not None and self.activation is not None

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and variance that normalise, where the batch's own do not."""
        assert self.running_mean is not None and self.running_var is not None
        return self.running_mean, self.running_var


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

    All are differentiable twice in input, weight, bias and residual. Statistics accumulate in float32 or wider, whatever
    the dtype of the input.
    """

    @property
    def NAME(self) -> str: ...

    def batch_stats_forward(self, args: BatchNormArgs) -> BatchNormOutput:
        """Normalise each channel by its mean and variance in this batch; no buffer moves."""
        ...

    def running_stats_forward(self, args: BatchNormArgs) -> Tensor:
        """Normalise each channel by ``args.statistics``: the running ones in evaluation."""
        ...

    def training_step(self, args: BatchNormArgs) -> Tensor | None:
        """The output by the batch's statistics, and the buffers moved, in one go; None where the kernel cannot.

        There are buffers, and no mask.
        """
        ...
