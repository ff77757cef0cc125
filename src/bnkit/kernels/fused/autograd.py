"""The passes over a tensor as one node of the autograd graph, differentiable twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnkit.kernels import reference_equations
from bnkit.kernels.fused.device_backend import backend_of
from bnkit.kernels.fused.operands import in_layout_of
from bnkit.kernels.kernel_interface import BatchNormArgs
from bnkit.kernels.tracing import is_wrapped


class ForwardConfig(NamedTuple):
    """The data that the backward pass needs from the forward pass besides the tensors that autograd saves.

    Attributes:
        training, eps, activation, mask, num_values: See ``kernel_interface.BatchNormArgs``.
        statistics: The statistics used by the passes, (6, C) float64.
        kernel: The name of the kernel.
        float64_compute: Whether the forward pass computes in float64.
    """

    training: bool
    eps: float
    activation: str | None
    mask: Tensor | None
    num_values: int | Tensor
    statistics: Tensor
    kernel: str
    float64_compute: bool = False

    def args(self, operands: Sequence[Tensor | None]) -> BatchNormArgs:
        """The arguments of the forward pass, from ``operands``: x, weight, bias and residual; without the updated buffers."""
        x, weight, bias, residual = operands
        assert x is not None
        training, eps, activation, mask, num_values, statistics, _, _ = self
        mean, var = (None, None) if training else (statistics[0], statistics[1])
        # Same as BatchNormArgs(...), which calls a Python function and takes twice as long.
        return tuple.__new__(
            BatchNormArgs,
            (x, mean, var, weight, bias, training, 0.0, eps, activation, residual, mask, num_values, None),
        )


class FusedBatchNormFunction(torch.autograd.Function):
    """The output of the forward pass; ``args`` repeats the first four arguments, which autograd must see."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        args: BatchNormArgs,
        statistics: Tensor,
        kernel: str,
        float64_compute: bool,
    ) -> Tensor:
        backend = backend_of(kernel)
        y = backend.forward(args, statistics, float64_compute)
        ctx.save_for_backward(x, weight, bias, residual, y if backend.needs_output(args) else None)
        _, _, _, _, _, training, _, eps, activation, _, mask, num_values, _ = args
        ctx.config = tuple.__new__(
            ForwardConfig, (training, eps, activation, mask, num_values, statistics, kernel, float64_compute)
        )
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grads: Sequence[Tensor | None]
        if is_wrapped(gradients[0]):
            *operands, _ = ctx.saved_tensors
            grads = by_equations(gradients[0], operands, ctx.config, create_graph=torch.is_grad_enabled())
        elif not torch.is_grad_enabled():
            *operands, y = ctx.saved_tensors
            grads = gradients_of(gradients[0], operands, y, ctx.config)
        else:
            grads = _FusedBatchNormBackward.apply(gradients[0], *ctx.saved_tensors, ctx.config)  # type: ignore[no-untyped-call]
        return *grads, *[None] * 4


class _FusedBatchNormBackward(torch.autograd.Function):
    """The gradients. They can be differentiated again, through the equations in plain PyTorch."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        y: Tensor | None,
        config: ForwardConfig,
    ) -> Any:
        ctx.save_for_backward(gradient, x, weight, bias, residual)
        ctx.config = config
        return gradients_of(gradient, (x, weight, bias, residual), y, config)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        return *second_gradients(ctx.saved_tensors, upstream, ctx.config), None, None


def gradients_of(
    gradient: Tensor, operands: Sequence[Tensor | None], output: Tensor | None, config: ForwardConfig
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight, bias and residual.

    Args:
        gradient: The gradient of the output.
        operands: The operands of the forward pass: x, weight, bias and residual.
        output: The output, if the passes need it.
        config: The other data of the forward pass.
    """
    args = config.args(operands)
    weight, bias = args.weight, args.bias
    gradient = in_layout_of(args.input, gradient)
    backend = backend_of(config.kernel)
    output = output if backend.needs_output(args) else None
    dx, dr, by_parameter = backend.backward(gradient, args, output, config.statistics)
    if args.residual is not None and args.activation is None:
        dr = gradient  # without an activation, the gradient of the residual is that of the output
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
    config: ForwardConfig,
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """The gradients of x, weight, bias and residual by the equations in plain PyTorch; None for operands that require none.

    Args:
        gradient: The gradient of the output.
        operands: The operands of the forward pass: x, weight, bias and residual.
        config: The other data of the forward pass.
        create_graph: Whether the gradients will be differentiated with respect to ``gradient`` and ``operands``.
    """
    with torch.enable_grad():
        views = _separate_views(operands)
        args = config.args(views)
        training = config.training
        output = (
            reference_equations.batch_stats_forward(args).output
            if training
            else reference_equations.running_stats_forward(args)
        )
        return _gradients([output], views, [gradient], create_graph=create_graph)


def second_gradients(
    saved: Sequence[Tensor | None], upstream: Sequence[Tensor | None], config: ForwardConfig
) -> list[Tensor | None]:
    """The gradients of the gradients, by the equations in plain PyTorch, differentiable if gradients are enabled.

    Args:
        saved: The gradient of the output, x, weight, bias and residual.
        upstream: The gradients of those of x, weight, bias and residual.
        config: The other data of the forward pass.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        views = _separate_views(saved)
        gradient, *operands = views
        assert gradient is not None
        first = by_equations(gradient, operands, config, create_graph=True)
        pairs = [
            (f, u.to(f.dtype))
            for f, u in zip(first, upstream, strict=True)
            if f is not None and u is not None and f.requires_grad
        ]
        return _gradients([f for f, _ in pairs], views, [u for _, u in pairs], create_graph=create_graph)


def _separate_views(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """A separate view of each tensor, so that each has its own gradient even if a residual was made from ``x``."""
    return [None if t is None else t.view_as(t) for t in tensors]


def _gradients(
    outputs: list[Tensor], inputs: Sequence[Tensor | None], upstream: list[Tensor], *, create_graph: bool
) -> list[Tensor | None]:
    """The gradients of those ``inputs`` that require one; None for the others."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    grads = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=create_graph, allow_unused=True))
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]
