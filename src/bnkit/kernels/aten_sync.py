"""PyTorch's own operations for the halves of both passes; see ``kernels.sync_kernel_interface``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bnkit.kernels.fused.operands import as_row
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.kernels.sync_kernel_interface import BackwardState


def supports(x: Tensor, activation: str | None) -> bool:
    """See ``sync_kernel_interface.SyncKernel``."""
    return True


def fuses(activation: str | None) -> bool:
    """See ``sync_kernel_interface.SyncKernel``."""
    return False


def part_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See ``sync_kernel_interface.SyncKernel``."""
    values = x.to(_acc_dtype(x))  # half inputs would be summed in float32 instead of float64
    high, variance = torch.ops.aten.batch_norm_update_stats(values, None, None, 0.0)
    if values.dtype == torch.float64:
        return high, variance
    # Means of several processes, each rounded to float32, have a larger total error than one mean.
    low = (values - _per_channel(high, x)).sum([0, *range(2, x.dim())]) / (x.numel() // x.shape[1])
    return high.double() + low, variance


def part_forward(args: BatchNormArgs) -> Tensor:
    """See ``sync_kernel_interface.SyncKernel``."""
    x, number, (high, low) = args.input, _acc_dtype(args.input), _in_two(args)
    scale = _scale(args)
    shift = -low * scale if args.bias is None else args.bias - low * scale
    weight = torch.ones_like(high) if args.weight is None else as_row(args.weight, number)
    variance = args.statistics[1].to(number)
    return functional.batch_norm(x, high, variance, weight, shift.to(number), False, 0.0, args.eps)


def part_backward(gradient: Tensor, args: BatchNormArgs, output: Tensor | None) -> BackwardState:
    """See ``sync_kernel_interface.SyncKernel``."""
    number, (high, low), variance = _acc_dtype(args.input), _in_two(args), args.statistics[1]
    x, gradient = args.input.to(number), gradient.to(number)
    inverse_deviation, scale = torch.rsqrt(variance + args.eps), _scale(args)
    # Float32 sums of several processes have a larger total error than one sum: sums of half inputs use a wider dtype.
    wide = number if args.input.dtype == number else torch.float64
    _, by_gamma, by_beta = torch.ops.aten.native_batch_norm_backward(
        gradient.to(wide), x.to(wide), torch.ones_like(high, dtype=wide), high.to(wide), variance.to(wide),
        None, None, False, args.eps, [False, True, True],
    )  # fmt: skip
    by_gamma = by_gamma - low * inverse_deviation * by_beta

    def finish_backward(by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, None]:
        shift = by_mean - low * by_variance
        mean, by_x, by_all, by_gradient = (_per_channel(s.to(number), x) for s in (high, by_variance, shift, scale))
        dx = x - mean  # float32 at least
        dx.mul_(by_x).add_(by_all).addcmul_(gradient, by_gradient)
        return dx.to(args.input.dtype), None

    return BackwardState(by_gamma, by_beta, finish_backward)


def _in_two(args: BatchNormArgs) -> tuple[Tensor, Tensor]:
    """The mean in two parts: the error of rounding it to float32 would exceed a small standard deviation."""
    mean, _ = args.statistics
    high = mean.to(_acc_dtype(args.input))
    low = mean - high
    return high, torch.where(low.isfinite(), low, 0)


def _scale(args: BatchNormArgs) -> Tensor:
    inverse_deviation = torch.rsqrt(args.statistics[1] + args.eps)
    return inverse_deviation if args.weight is None else inverse_deviation * args.weight


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    return statistic.reshape(1, -1, *[1] * (x.dim() - 2))


def _acc_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
