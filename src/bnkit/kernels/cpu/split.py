"""The halves of the compiled passes; see ``kernels.split``."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.cpu import launch
from bnkit.kernels.fused.operands import as_row, in_layout_of, is_dense, parameter_dtype_of
from bnkit.kernels.split import BackwardState, SplitOperands

# What is fused here: of straight pieces, whose slope is a constant wherever it has one.
FUSED = frozenset({None, "relu", "leaky_relu", "relu6"})
# On fewer elements, rounding before an activation that is not fused shows in the sums of gradients: nothing averages it out.
LEAST_FOR_OTHERS = 1 << 14


def supports(x: Tensor, activation: str | None) -> bool:
    """See ``split.SplitKernel``."""
    return activation in FUSED or x.numel() >= LEAST_FOR_OTHERS


def fuses(activation: str | None) -> bool:
    """See ``split.SplitKernel``."""
    return activation in FUSED


def part_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See ``split.SplitKernel``."""
    return launch.moments(_dense(x))


def part_forward(operands: SplitOperands) -> Tensor:
    """See ``split.SplitKernel``."""
    x, weight, bias, residual = _as_the_loops_take(operands)
    statistics, activation = _statistics(operands), _fused(operands)
    float64_compute = activation != operands.activation
    return launch.forward(
        x,
        weight,
        bias,
        residual,
        None,
        1,
        statistics,
        activation,
        operands.eps,
        is_given=True,
        float64_compute=float64_compute,
    )


def part_backward(gradient: Tensor, operands: SplitOperands, output: Tensor | None) -> BackwardState:
    """See ``split.SplitKernel``."""
    x, weight, bias, _ = _as_the_loops_take(operands)
    gradient = in_layout_of(x, gradient)
    statistics, activation = _statistics(operands), _fused(operands)
    bends_behind_a_sum = operands.residual is not None and activation is not None
    output = output if bends_behind_a_sum else None
    by_gamma, by_beta = launch.backward_sums(gradient, x, weight, bias, output, statistics, activation)

    def finish_backward(by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, Tensor | None]:
        activation_backward = torch.stack([-by_variance, -by_mean]).double()
        dx, dr = launch.backward_shares(gradient, x, weight, bias, output, statistics, activation, activation_backward)
        return dx, gradient if operands.residual is not None and dr is None else dr

    return BackwardState(by_gamma, by_beta, finish_backward)


def _as_the_loops_take(operands: SplitOperands) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    x = _dense(operands.x)
    weight, bias = as_row(operands.weight, parameter_dtype_of(x)), as_row(operands.bias, parameter_dtype_of(x))
    residual = None if operands.residual is None else in_layout_of(x, operands.residual)
    return x, weight, bias, residual


def _dense(x: Tensor) -> Tensor:
    return (x if is_dense(x) else x.contiguous()).resolve_neg()


def _fused(operands: SplitOperands) -> str | None:
    return operands.activation if operands.activation in FUSED else None


def _statistics(operands: SplitOperands) -> Tensor:
    """As ``launch.forward`` takes those that are given; the last rows are only room."""
    mean, variance = operands.mean, operands.variance
    return torch.stack([mean, variance, torch.rsqrt(variance + operands.eps), variance, mean, mean])
