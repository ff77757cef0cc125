"""The halves of the compiled passes; see ``kernels.sync_kernel_interface``."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.cpu import launch
from bnkit.kernels.fused.operands import as_row, in_layout_of, is_dense, parameter_dtype_of
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.kernels.sync_kernel_interface import BackwardState

# The fused activations: piecewise linear ones, whose slope is constant on each piece.
FUSED = frozenset({None, "relu", "leaky_relu", "relu6"})
# With fewer elements, rounding before an activation that is not fused affects the sums of gradients: it does not average out.
LEAST_FOR_OTHERS = 1 << 14


def supports(x: Tensor, activation: str | None) -> bool:
    """See ``sync_kernel_interface.SyncKernel``."""
    return activation in FUSED or x.numel() >= LEAST_FOR_OTHERS


def fuses(activation: str | None) -> bool:
    """See ``sync_kernel_interface.SyncKernel``."""
    return activation in FUSED


def part_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See ``sync_kernel_interface.SyncKernel``."""
    return launch.moments(_dense(x))


def part_forward(args: BatchNormArgs) -> Tensor:
    """See ``sync_kernel_interface.SyncKernel``."""
    inside = _as_the_loops_take(args)
    return launch.forward(inside, _statistics(args), float64_compute=inside.activation != args.activation)


def part_backward(gradient: Tensor, args: BatchNormArgs, output: Tensor | None) -> BackwardState:
    """See ``sync_kernel_interface.SyncKernel``."""
    inside, statistics = _as_the_loops_take(args), _statistics(args)
    gradient = in_layout_of(inside.input, gradient)
    output = output if inside.has_activated_residual else None
    by_gamma, by_beta = launch.backward_sums(gradient, inside, output, statistics)

    def finish_backward(by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, Tensor | None]:
        through_statistics = torch.stack([-by_variance, -by_mean]).double()
        dx, dr = launch.backward_shares(gradient, inside, output, statistics, through_statistics)
        return dx, gradient if args.residual is not None and dr is None else dr

    return BackwardState(by_gamma, by_beta, finish_backward)


def _as_the_loops_take(args: BatchNormArgs) -> BatchNormArgs:
    x = _dense(args.input)
    dtype = parameter_dtype_of(x)
    return args._replace(
        input=x,
        weight=as_row(args.weight, dtype),
        bias=as_row(args.bias, dtype),
        residual=None if args.residual is None else in_layout_of(x, args.residual),
        activation=args.activation if args.activation in FUSED else None,
    )


def _dense(x: Tensor) -> Tensor:
    return (x if is_dense(x) else x.contiguous()).resolve_neg()


def _statistics(args: BatchNormArgs) -> Tensor:
    """The given statistics in the form that ``launch.forward`` takes; the last rows are unused."""
    mean, variance = args.statistics
    return torch.stack([mean, variance, torch.rsqrt(variance + args.eps), variance, mean, mean])
