"""The halves of the compiled passes; see ``kernels.split``."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.kernels.cpu import launch
from bnkit.kernels.fused.operands import as_row, is_dense, lying_as, number_of
from bnkit.kernels.split import Halfway, Terms

# What is fused here: of straight pieces, whose slope is a constant wherever it has one.
FUSED = frozenset({None, "relu", "leaky_relu"})
# On fewer elements, rounding before an activation that is not fused shows in the sums of gradients: nothing averages it out.
LEAST_FOR_OTHERS = 1 << 14


def takes(x: Tensor, activation: str | None) -> bool:
    """See ``split.PartKernel``."""
    return activation in FUSED or x.numel() >= LEAST_FOR_OTHERS


def fuses(activation: str | None) -> bool:
    """See ``split.PartKernel``."""
    return activation in FUSED


def part_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See ``split.PartKernel``."""
    return launch.moments(_dense(x))


def part_forward(terms: Terms) -> Tensor:
    """See ``split.PartKernel``."""
    x, weight, bias, residual = _as_the_loops_take(terms)
    statistics, activation = _statistics(terms), _fused(terms)
    wide = activation != terms.activation
    return launch.forward(
        x, weight, bias, residual, None, 1, statistics, activation, terms.eps, is_given=True, wide=wide
    )


def part_backward(gradient: Tensor, terms: Terms, output: Tensor | None) -> Halfway:
    """See ``split.PartKernel``."""
    x, weight, bias, _ = _as_the_loops_take(terms)
    gradient = lying_as(x, gradient)
    statistics, activation = _statistics(terms), _fused(terms)
    bends_behind_a_sum = terms.residual is not None and activation is not None
    output = output if bends_behind_a_sum else None
    by_gamma, by_beta = launch.backward_sums(gradient, x, weight, bias, output, statistics, activation)

    def finish(by_mean: Tensor, by_variance: Tensor) -> tuple[Tensor, Tensor | None]:
        through = torch.stack([-by_variance, -by_mean]).double()
        dx, dr = launch.backward_shares(gradient, x, weight, bias, output, statistics, activation, through)
        return dx, gradient if terms.residual is not None and dr is None else dr

    return Halfway(by_gamma, by_beta, finish)


def _as_the_loops_take(terms: Terms) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    x = _dense(terms.x)
    weight, bias = as_row(terms.weight, number_of(x)), as_row(terms.bias, number_of(x))
    residual = None if terms.residual is None else lying_as(x, terms.residual)
    return x, weight, bias, residual


def _dense(x: Tensor) -> Tensor:
    return (x if is_dense(x) else x.contiguous()).resolve_neg()


def _fused(terms: Terms) -> str | None:
    return terms.activation if terms.activation in FUSED else None


def _statistics(terms: Terms) -> Tensor:
    """As ``launch.forward`` takes those that are given; the last rows are only room."""
    mean, variance = terms.mean, terms.variance
    return torch.stack([mean, variance, torch.rsqrt(variance + terms.eps), variance, mean, mean])
