"""The passes over a tensor as one node of the autograd graph, differentiable twice."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnkit.kernels import reference
from bnkit.kernels.device_passes import Moving, passes_of


class Known(NamedTuple):
    """What a pass is given besides tensors that can be differentiated.

    Attributes:
        activation: None, or the name of one that the passes fuse.
        eps: Added to the variance.
        mask: What counts, (N, 1, *spatial) bool, or None.
        values: How many of a channel do.
        is_given: Whether the statistics are, or the batch's.
        wide: Whether the forward pass computes in float64.
        interpreted: Whether Triton's interpreter computes, on the CPU.
    """

    activation: str | None
    eps: float
    mask: Tensor | None
    values: int
    is_given: bool
    wide: bool
    interpreted: bool = False


class Normalise(torch.autograd.Function):
    """``activation(gamma * (x - mean) * rstd + beta + residual)``, computed with the ``statistics``, (6, C) float64."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        statistics: Tensor,
        known: Known,
        moving: Moving | None = None,
    ) -> Tensor:
        activation, eps, mask, count, is_given, wide, interpreted = known
        passes = passes_of(x, interpreted=interpreted)
        y = passes.forward(x, weight, bias, residual, mask, count, statistics, activation, eps, is_given, wide, moving)
        sees = passes.sees(activation, bends_a_sum(activation, residual))
        ctx.save_for_backward(x, weight, bias, residual, y if sees == "output" else None)
        ctx.statistics, ctx.known = statistics, known
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            x, weight, bias, residual, y = ctx.saved_tensors
            found = gradients_of(gradients[0], x, weight, bias, residual, y, ctx.statistics, ctx.known)
        else:
            found = _Backward.apply(gradients[0], *ctx.saved_tensors, ctx.statistics, ctx.known)  # type: ignore[no-untyped-call]
        return *found, None, None, None


class _Backward(torch.autograd.Function):
    """The gradients, which can be differentiated in their turn: then through the equations in plain PyTorch."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Any,
        bias: Any,
        residual: Any,
        y: Any,
        statistics: Any,
        known: Any,
    ) -> Any:
        ctx.save_for_backward(gradient, x, weight, bias, residual)
        ctx.statistics, ctx.known = statistics, known
        return gradients_of(gradient, x, weight, bias, residual, y, statistics, known)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return *second_gradients(ctx.saved_tensors, upstream, ctx.statistics, ctx.known), None, None, None


def bends_a_sum(activation: str | None, residual: Tensor | None) -> bool:
    """Whether there is an activation behind a residual: then the residual has a gradient of its own."""
    return activation is not None and residual is not None


def gradients_of(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    known: Known,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias and residual; ``y`` is the output, if the passes need it."""
    if gradient.stride() != x.stride():
        gradient = torch.empty_like(x).copy_(gradient)
    passes = passes_of(x, interpreted=known.interpreted)
    adds = bends_a_sum(known.activation, residual)
    seen = {"output": y, "residual": residual, None: None}[passes.sees(known.activation, adds)]
    dx, dr, by_parameter = passes.backward(
        gradient, x, weight, bias, seen, known.mask, known.values, statistics, known.activation, known.is_given, adds
    )
    if residual is not None and not adds:
        dr = gradient  # behind no activation, the gradient of the residual is that of the output
    parameter = weight if weight is not None else bias
    if parameter is None:
        return dx, None, None, dr
    if by_parameter.dtype is not parameter.dtype:
        by_parameter = by_parameter.to(parameter.dtype)
    dw, db = by_parameter.unbind(0)
    return dx, None if weight is None else dw, None if bias is None else db, dr


def second_gradients(
    saved: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None],
    upstream: tuple[Tensor | None, ...],
    statistics: Tensor,
    known: Known,
) -> list[Tensor | None]:
    """The gradients of the gradients, by the equations in plain PyTorch.

    Args:
        saved: The gradient of the output, x, weight, bias and residual.
        upstream: The gradients of those of x, weight, bias and residual.
        statistics, known: What the forward pass used.
    """
    with torch.enable_grad():
        inputs = [None if t is None else t.detach().requires_grad_() for t in saved]
        gradient, x, weight, bias, residual = inputs
        assert x is not None
        if known.is_given:
            output = reference.by_given_statistics(
                x, statistics[0], statistics[1], weight, bias, known.eps, known.activation, residual
            )
        else:
            output = reference.by_batch_statistics(
                x, weight, bias, known.eps, known.activation, residual, known.mask, known.values
            ).output
        wanted = [t for t in (x, weight, bias, residual) if t is not None]
        first = torch.autograd.grad(output, wanted, gradient, create_graph=True)
        by_input = dict(zip((id(t) for t in wanted), first, strict=True))
        pairs = [
            (by_input[id(t)], u)
            for t, u in zip((x, weight, bias, residual), upstream, strict=True)
            if t is not None and u is not None and by_input[id(t)].requires_grad
        ]
        given = [t for t in inputs if t is not None]
        second = torch.autograd.grad([p for p, _ in pairs], given, [u.to(p.dtype) for p, u in pairs], allow_unused=True)
    by_given = dict(zip((id(t) for t in given), second, strict=True))
    return [None if t is None else by_given[id(t)] for t in inputs]
