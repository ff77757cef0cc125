"""PyTorch's own kernel behind our contract: what ``torch.nn`` computes, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bnkit.kernels import aten_parts, reference
from bnkit.kernels.activation import activate_own
from bnkit.kernels.contract import Normalised

NAME = "aten"
PART = aten_parts  # what `select.part_kernel` looks for


def by_batch_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    count: int | Tensor,
) -> Normalised:
    """See ``contract.Kernel``."""
    if mask is not None:
        # PyTorch's kernel cannot leave a position out of the statistics; the equations, in PyTorch's operations, can.
        return reference.by_batch_statistics(x, weight, bias, eps, activation, residual, mask, count)
    # With momentum 1, buffers of its own receive the batch's mean and unbiased variance as they are. The statistics
    # that native_batch_norm returns would have to be turned back from 1 / sqrt(variance + eps), which cancels.
    dtype = torch.promote_types(x.dtype if weight is None else weight.dtype, torch.float32)
    mean = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
    unbiased_variance = torch.zeros_like(mean)
    weight, bias = (None if p is None else p.to(dtype) for p in (weight, bias))
    output = functional.batch_norm(x, mean, unbiased_variance, weight, bias, True, 1.0, eps)
    return Normalised(_finish(output, activation, residual), mean, unbiased_variance)


def by_given_statistics(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """See ``contract.Kernel``."""
    weight, bias = (None if p is None else p.to(mean.dtype) for p in (weight, bias))
    output = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    return _finish(output, activation, residual)


def training_step(
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
    """See ``contract.Kernel``."""
    if running_mean.dtype != x.dtype:  # PyTorch mixes half precision with float32, and nothing else
        weight, bias = (None if p is None else p.to(running_mean.dtype) for p in (weight, bias))
        if running_mean.dtype != torch.float32:
            return None
    output = functional.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    return _finish(output, activation, residual)


def _finish(output: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    if residual is not None:
        output = (output + residual).to(output.dtype)
    return activate_own(output, activation)
