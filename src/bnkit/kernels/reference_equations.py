"""Batch normalization as the paper writes it, in plain PyTorch.

Ioffe & Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
Algorithm 1 (training) and the frozen affine map at the end of Algorithm 2 (prediction). Runs in any floating dtype, on
any device, under every transform of PyTorch. It is written for reading, and as a reference for tests: not for speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.activation import activate
from bnkit.kernels.kernel_interface import BatchNormArgs, BatchNormOutput

NAME = "reference"


def batch_stats_forward(args: BatchNormArgs) -> BatchNormOutput:
    """See ``kernel_interface.Kernel``."""
    x, mask, count = args.input, args.mask, args.num_values
    values = _wide(x)
    over = [0, *range(2, x.dim())]  # one mean and one variance per channel c: over n and all positions
    lost = None if mask is None else ~(mask | torch.isfinite(values))
    if lost is not None:  # masked non-finite values are excluded from gradients: 0 times NaN would be NaN
        values = values.masked_fill(lost, 0)

    mean = _masked(values, mask).sum(over, keepdim=True) / count
    centred = values - mean
    variance = _masked(centred, mask).square().sum(over, keepdim=True) / count
    normalised = centred * torch.rsqrt(variance + args.eps)
    output = _scale_and_shift(normalised, args.weight, args.bias)
    if lost is not None:
        known = (None if p is None else p.detach() for p in (args.weight, args.bias))
        output = torch.where(lost, _scale_and_shift(_wide(x.detach()), *known), output)
    return BatchNormOutput(
        _finish(output, args),
        mean.detach().flatten(),
        variance.detach().flatten() * (count / (count - 1)),
    )


def running_stats_forward(args: BatchNormArgs) -> Tensor:
    """See ``kernel_interface.Kernel``."""
    values, (mean, variance) = _wide(args.input), args.statistics
    centred = values - _per_channel(mean, values)
    normalised = centred * torch.rsqrt(_per_channel(variance, values) + args.eps)
    return _finish(_scale_and_shift(normalised, args.weight, args.bias), args)


def training_step(*_: object) -> None:
    """See ``kernel_interface.Kernel``: here the two steps are separate."""


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """``values``, with 0 where the mask is False, even for NaN."""
    return values if mask is None else torch.where(mask, values, 0)


def _scale_and_shift(normalised: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        normalised = _per_channel(gamma, normalised) * normalised
    if beta is not None:
        normalised = normalised + _per_channel(beta, normalised)
    return normalised


def _finish(output: Tensor, args: BatchNormArgs) -> Tensor:
    if args.residual is not None:
        output = output + args.residual
    return activate(output, args.activation).to(args.input.dtype)


def _per_channel(statistic: Tensor, like: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...) in the dtype of ``like``, so that it broadcasts over n and the positions."""
    return statistic.to(like.dtype).reshape(1, -1, *[1] * (like.dim() - 2))


def _wide(x: Tensor) -> Tensor:
    """``x`` in the next wider precision, so that sums and differences lose no precision of the result.

    At mean 1000 and deviation 0.03, the error of a mean from float32 sums would be a third of a deviation.
    """
    if x.dtype in (torch.float16, torch.bfloat16) or x.device.type == "mps":  # Apple's GPUs have no float64
        return x.to(torch.float32)
    return x.to(torch.float64)
