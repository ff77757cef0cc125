"""The passes of all devices as registered PyTorch operations: for torch.compile, torch.export, and dispatch modes.

In eager mode, ``autograd`` does the same with less overhead. Neither supports forward-mode differentiation, and operations do
not support a compiled ``torch.func.grad``: there ``kernel`` uses the equations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnkit.errors import KernelError
from bnkit.kernels.fused.autograd import ForwardConfig, gradients_of, second_gradients
from bnkit.kernels.fused.device_backend import backend_of
from bnkit.kernels.fused.operands import check_operands
from bnkit.kernels.kernel_interface import BatchNormArgs


def _kernel_for(kernel: str, x: Tensor) -> str:
    """The name of a kernel that takes ``x``; ``kernel`` is a name, or empty for the device's kernel."""
    if kernel == "numba" and x.device.type != "cpu":
        raise KernelError(f"bnkit::batch_norm got an x on {x.device} for the kernel 'numba'; expected it on the CPU")
    return kernel or ("numba" if x.device.type == "cpu" else "triton")


@torch.library.custom_op("bnkit::batch_norm", mutates_args=(), device_types=("cpu", "cuda"))
def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    given_statistics: Tensor | None,
    activation: str | None,
    eps: float,
    count: int,
    wide: bool,
    kernel: str = "",
) -> tuple[Tensor, Tensor]:
    """``activation(gamma * (x - mean) * rstd + beta + residual)``, and the statistics; see ``device_backend.Backend``.

    ``given_statistics``: those to normalise with, or None for the batch's. ``kernel``: the name of a fused kernel, or empty
    for that of the device.
    """
    args = BatchNormArgs(
        x, None, None, weight, bias, given_statistics is None, 0.0, eps, activation, residual, mask, count
    )
    check_operands(args, given_statistics)
    statistics = (
        x.new_zeros((6, x.shape[1]), dtype=torch.float64) if given_statistics is None else given_statistics.clone()
    )
    return backend_of(_kernel_for(kernel, x)).forward(args, statistics, wide), statistics


@batch_norm.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((6, x.shape[1]), dtype=torch.float64)


@torch.library.custom_op("bnkit::batch_norm_backward", mutates_args=(), device_types=("cpu", "cuda"))
def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    eps: float,
    count: int,
    is_given: bool,
    kernel: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and residual; empty tensors for missing ones. See ``device_backend.Backend``."""
    config = ForwardConfig(not is_given, eps, activation, mask, count, statistics, _kernel_for(kernel, x))
    operands = (x, weight, bias, residual)
    check_operands(config.args(operands), statistics, y, gradient)
    grads = gradients_of(gradient, operands, y, config)
    # The results of an operation must not share memory with each other, or with its arguments.
    dx, dw, db, dr = (x.new_empty(0) if t is None else t for t in grads)
    return dx, dw.clone(), db.clone(), dr.clone() if dr is gradient else dr


@batch_norm_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    empty = x.new_empty(0)
    by_weight, by_bias = (empty.clone() if t is None else torch.empty_like(t) for t in (weight, bias))
    return torch.empty_like(x), by_weight, by_bias, empty if residual is None else torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, mask, given_statistics, activation, eps, count, ctx.float64_compute, kernel = inputs
    y, statistics = output
    args = BatchNormArgs(
        x, None, None, weight, bias, given_statistics is None, 0.0, eps, activation, residual, mask, count
    )
    needs_output = backend_of(_kernel_for(kernel, x)).needs_output(args)
    ctx.save_for_backward(x, weight, bias, residual, y if needs_output else None, mask, statistics)
    ctx.others = activation, eps, count, given_statistics is not None, kernel
    ctx.mark_non_differentiable(statistics)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, y, mask, statistics = ctx.saved_tensors
    grads = batch_norm_backward(gradient, x, weight, bias, residual, y, mask, statistics, *ctx.others)
    inputs = (x, weight, bias, residual)
    return *(None if t is None else g for t, g in zip(inputs, grads, strict=True)), *[None] * 7


def _keep_for_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gradient, x, weight, bias, residual, _, mask, statistics, *ctx.others = inputs
    ctx.save_for_backward(gradient, x, weight, bias, residual, mask, statistics)


def _differentiate_again(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    *saved, mask, statistics = ctx.saved_tensors
    activation, eps, count, is_given, kernel = ctx.others
    config = ForwardConfig(not is_given, eps, activation, mask, count, statistics, kernel)
    return *second_gradients(saved, upstream, config), *[None] * 8


batch_norm.register_autograd(_differentiate, setup_context=_keep)
batch_norm_backward.register_autograd(_differentiate_again, setup_context=_keep_for_second)


def _one_by_one(operation: Any) -> Any:
    """A rule for ``torch.vmap``: apply the operation to each element, because each has its own statistics."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        results = []
        for index in range(info.batch_size):
            pairs = zip(arguments, in_dims, strict=True)
            results.append(operation(*(a if d is None else a.select(d, index).contiguous() for a, d in pairs)))
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


batch_norm.register_vmap(_one_by_one(batch_norm))
batch_norm_backward.register_vmap(_one_by_one(batch_norm_backward))
