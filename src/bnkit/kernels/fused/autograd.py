"""The passes over a tensor as one node of the autograd graph, differentiable twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnkit.kernels import reference
from bnkit.kernels.fused.backend import RunningStats, backend_of
from bnkit.kernels.fused.operands import in_layout_of
from bnkit.kernels.fused.tracing import is_wrapped


class ForwardConfig(NamedTuple):
    """What a pass is given besides tensors that can be differentiated.

    Attributes:
        activation: None, or the name of one that the passes fuse.
        eps: Added to the variance.
        mask: What counts, (N, 1, *spatial) bool, or None.
        values: How many of a channel do.
        is_given: Whether the statistics are, or the batch's.
        float64_compute: Whether the forward pass computes in float64.
        kernel: The name of the kernel that computes.
    """

    activation: str | None
    eps: float
    mask: Tensor | None
    values: int
    is_given: bool
    float64_compute: bool
    kernel: str


class FusedBatchNormFunction(torch.autograd.Function):
    """``activation(gamma * (x - mean) * rstd + beta + residual)``, computed with the ``statistics``, (6, C) float64."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        statistics: Tensor,
        config: ForwardConfig,
        running_stats: RunningStats | None = None,
    ) -> Tensor:
        activation, eps, mask, count, is_given, float64_compute, kernel = config
        backend = backend_of(kernel)
        y = backend.forward(
            x,
            weight,
            bias,
            residual,
            mask,
            count,
            statistics,
            activation,
            eps,
            is_given,
            float64_compute,
            running_stats,
        )
        backward_operand = backend.backward_operand(activation, has_activated_residual(activation, residual))
        ctx.save_for_backward(x, weight, bias, residual, y if backward_operand == "output" else None)
        ctx.statistics, ctx.config = statistics, config
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found: Sequence[Tensor | None]
        if is_wrapped(gradients[0]):
            *operands, _ = ctx.saved_tensors
            create_graph = torch.is_grad_enabled()
            found = by_equations(gradients[0], operands, ctx.statistics, ctx.config, create_graph=create_graph)
        elif not torch.is_grad_enabled():
            x, weight, bias, residual, y = ctx.saved_tensors
            found = gradients_of(gradients[0], x, weight, bias, residual, y, ctx.statistics, ctx.config)
        else:
            found = _FusedBatchNormBackward.apply(gradients[0], *ctx.saved_tensors, ctx.statistics, ctx.config)  # type: ignore[no-untyped-call]
        return *found, None, None, None


class _FusedBatchNormBackward(torch.autograd.Function):
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
        config: Any,
    ) -> Any:
        ctx.save_for_backward(gradient, x, weight, bias, residual)
        ctx.statistics, ctx.config = statistics, config
        return gradients_of(gradient, x, weight, bias, residual, y, statistics, config)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return *second_gradients(ctx.saved_tensors, upstream, ctx.statistics, ctx.config), None, None, None


def has_activated_residual(activation: str | None, residual: Tensor | None) -> bool:
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
    config: ForwardConfig,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias and residual; ``y`` is the output, if the passes need it."""
    gradient = in_layout_of(x, gradient)
    backend = backend_of(config.kernel)
    has_residual = has_activated_residual(config.activation, residual)
    saved_operand = {"output": y, "residual": residual, None: None}[
        backend.backward_operand(config.activation, has_residual)
    ]
    dx, dr, by_parameter = backend.backward(
        gradient,
        x,
        weight,
        bias,
        saved_operand,
        config.mask,
        config.values,
        statistics,
        config.activation,
        config.is_given,
        has_residual,
    )
    if residual is not None and not has_residual:
        dr = gradient  # behind no activation, the gradient of the residual is that of the output
    parameter = weight if weight is not None else bias
    if parameter is None:
        return dx, None, None, dr
    if by_parameter.dtype is not parameter.dtype:
        by_parameter = by_parameter.to(parameter.dtype)
    dw, db = by_parameter.unbind(0)
    return dx, None if weight is None else dw, None if bias is None else db, dr


def by_equations(
    gradient: Tensor,
    operands: Sequence[Tensor | None],
    statistics: Tensor,
    config: ForwardConfig,
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """The gradients of x, weight, bias and residual by the equations in plain PyTorch; None for what requires none.

    Args:
        gradient: Of the output.
        operands: What the output was computed from: x, weight, bias and residual.
        statistics, config: What the forward pass used.
        create_graph: Whether the gradients are to be differentiated, with respect to ``gradient`` and ``operands``.
    """
    with torch.enable_grad():
        x, weight, bias, residual = apart = _apart(operands)
        assert x is not None
        if config.is_given:
            output = reference.running_stats_forward(
                x, statistics[0], statistics[1], weight, bias, config.eps, config.activation, residual
            )
        else:
            output = reference.batch_stats_forward(
                x, weight, bias, config.eps, config.activation, residual, config.mask, config.values
            ).output
        return _gradients([output], apart, [gradient], create_graph=create_graph)


def second_gradients(
    saved: Sequence[Tensor | None], upstream: Sequence[Tensor | None], statistics: Tensor, config: ForwardConfig
) -> list[Tensor | None]:
    """The gradients of the gradients, by the equations in plain PyTorch, differentiable where gradients are enabled.

    Args:
        saved: The gradient of the output, x, weight, bias and residual.
        upstream: The gradients of those of x, weight, bias and residual.
        statistics, config: What the forward pass used.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        apart = _apart(saved)
        gradient, *operands = apart
        assert gradient is not None
        first = by_equations(gradient, operands, statistics, config, create_graph=True)
        pairs = [
            (f, u.to(f.dtype))
            for f, u in zip(first, upstream, strict=True)
            if f is not None and u is not None and f.requires_grad
        ]
        return _gradients([f for f, _ in pairs], apart, [u for _, u in pairs], create_graph=create_graph)


def _apart(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors, none of them made from another, as a residual may be from ``x``: so the gradient of each is its own."""
    return [None if t is None else t.view_as(t) for t in tensors]


def _gradients(
    outputs: list[Tensor], inputs: Sequence[Tensor | None], upstream: list[Tensor], *, create_graph: bool
) -> list[Tensor | None]:
    """The gradients of those ``inputs`` that require one; None for the others."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=create_graph, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
