"""Update the running mean and variance."""

from __future__ import annotations

import torch
from torch import Tensor


def move(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    unbiased_variance: Tensor,
    momentum: float | Tensor,
    num_batches_skipped: Tensor | None = None,
) -> None:
    """Update both buffers in place: ``new = (1 - momentum) * old + momentum * batch``.

    Args:
        running_mean, running_var: The buffers, (C,), any floating dtype.
        mean, unbiased_variance: The batch's statistics, (C,).
        momentum: PyTorch's momentum, or a 0-d tensor (for the cumulative average).
        num_batches_skipped: If given, a batch whose statistics are not finite (it contains inf or NaN) does not change
            the buffers and is counted here instead; 0-d int64. This needs no synchronisation with the device.
    """
    with torch.no_grad():
        mean, unbiased_variance = _shared(mean, running_mean), _shared(unbiased_variance, running_var)
        # In the wider dtype, like the compiled loops, which update the buffers themselves and round once at the end.
        wide_mean, wide_var = running_mean.to(mean.dtype), running_var.to(unbiased_variance.dtype)
        new_mean = (1 - momentum) * wide_mean + momentum * mean
        new_var = (1 - momentum) * wide_var + momentum * unbiased_variance
        if num_batches_skipped is not None:
            finite = torch.isfinite(mean).all() & torch.isfinite(unbiased_variance).all()
            new_mean = torch.where(finite, new_mean, running_mean)
            new_var = torch.where(finite, new_var, running_var)
            num_batches_skipped.add_(_shared(torch.where(finite, 0, 1), num_batches_skipped).to(torch.int64))
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)


def is_recomputation() -> bool:
    """Whether this forward pass runs inside a backward pass, because activation checkpointing repeats it.

    Then the buffers already include the statistics of the batch.
    """
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._current_graph_task_id() != -1)


def _shared(statistic: Tensor, buffer: Tensor) -> Tensor:
    """``statistic`` in the form of ``buffer``: under ``vmap`` a shared buffer gets the mean over the batch."""
    if torch.compiler.is_compiling():
        return statistic
    functorch = torch._C._functorch
    if functorch.is_batchedtensor(buffer):
        return statistic
    while functorch.is_batchedtensor(statistic):
        batch_dimension = functorch.maybe_get_bdim(statistic)
        statistic = functorch.get_unwrapped(statistic).to(torch.promote_types(buffer.dtype, torch.float32))
        statistic = statistic.mean(batch_dimension)
    return statistic
