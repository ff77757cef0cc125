"""Batch normalization, residual and ReLU in few passes over memory, on the CPU, compiled by Numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnkit.kernels import reference
from bnkit.kernels.activation import activate_own
from bnkit.kernels.column_loops import column_loops
from bnkit.kernels.contract import Normalised
from bnkit.kernels.layout import Layout
from bnkit.kernels.plane_loops import plane_loops
from bnkit.kernels.threads import in_parts, parts_for

NAME = "numba"

# What is fused; the others take longer to compute than to fetch, and PyTorch computes them with vectors.
_FUSED = frozenset({None, "relu", "leaky_relu"})
# On fewer elements, rounding before an activation that is not fused shows in the sums of gradients: nothing averages it out.
_LEAST_FOR_OTHERS = 1 << 14


class _Normalise(torch.autograd.Function):
    """``activation(gamma * (x - mean) * rstd + beta + residual)``, and the statistics that it was computed with."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        eps: float,
        given: Tensor | None,
        wide: bool,
    ) -> tuple[Tensor, Tensor]:
        layout = Layout(x)
        y = torch.empty_like(x)
        statistics = given if given is not None else torch.empty(6, layout.channels, dtype=torch.float64)
        if layout.as_planes:
            _planes_forward(layout, x, residual, y, weight, bias, statistics, activation, eps, given is not None, wide)
        else:
            _columns_forward(layout, x, residual, y, weight, bias, statistics, activation, eps, given is not None, wide)
        bends_behind_a_sum = residual is not None and activation is not None
        ctx.save_for_backward(x, weight, bias, residual, y if bends_behind_a_sum else None)
        ctx.statistics, ctx.activation, ctx.eps, ctx.is_frozen = statistics, activation, eps, given is not None
        ctx.mark_non_differentiable(statistics)
        return y, statistics

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, y = ctx.saved_tensors
        arguments = (ctx.statistics, ctx.activation, ctx.eps, ctx.is_frozen)
        if not torch.is_grad_enabled():
            dx, dw, db, dr = _backward(gradients[0], x, weight, bias, residual, y, *arguments)
        else:
            dx, dw, db, dr = _Backward.apply(gradients[0], x, weight, bias, residual, y, *arguments)  # type: ignore[no-untyped-call]
        return dx, dw, db, dr, None, None, None, None


class _Backward(torch.autograd.Function):
    """The gradients, which can be differentiated in their turn: then through the equations in plain PyTorch."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Any, bias: Any, residual: Any, y: Any, *others: Any
    ) -> Any:
        ctx.save_for_backward(gradient, x, weight, bias, residual)
        ctx.others = others
        return _backward(gradient, x, weight, bias, residual, y, *others)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        statistics, activation, eps, is_frozen = ctx.others
        saved = ctx.saved_tensors
        with torch.enable_grad():
            inputs = [None if t is None else t.detach().requires_grad_() for t in saved]
            gradient, x, weight, bias, residual = inputs
            assert x is not None
            if is_frozen:
                variance = statistics[1]
                output = reference.by_given_statistics(
                    x, statistics[0], variance, weight, bias, eps, activation, residual
                )
            else:
                output = reference.by_batch_statistics(x, weight, bias, eps, activation, residual).output
            wanted = [t for t in (x, weight, bias, residual) if t is not None]
            first = torch.autograd.grad(output, wanted, gradient, create_graph=True)
            by_input = dict(zip((id(t) for t in wanted), first, strict=True))
            pairs = [
                (by_input[id(t)], u)
                for t, u in zip((x, weight, bias, residual), upstream, strict=True)
                if t is not None and u is not None and by_input[id(t)].requires_grad
            ]
            known = [t for t in inputs if t is not None]
            second = torch.autograd.grad(
                [p for p, _ in pairs], known, [u.to(p.dtype) for p, u in pairs], allow_unused=True
            )
        by_known = dict(zip((id(t) for t in known), second, strict=True))
        return (*(None if t is None else by_known[id(t)] for t in inputs), None, None, None, None, None)


def by_batch_statistics(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Normalised:
    """See ``contract.Kernel``."""
    if activation not in _FUSED and x.numel() < _LEAST_FOR_OTHERS:
        return reference.by_batch_statistics(x, weight, bias, eps, activation, residual)
    fused = activation if activation in _FUSED else None
    wide = fused != activation and x.dtype == torch.float32
    output, statistics = _Normalise.apply(*_ready(x, weight, bias, residual), fused, eps, None, wide)  # type: ignore[no-untyped-call]
    output = output if fused == activation else activate_own(output, activation)
    mean, _, _, unbiased_variance, _, _ = statistics.unbind(0)
    return Normalised(output, mean, unbiased_variance)


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
    if activation not in _FUSED and x.numel() < _LEAST_FOR_OTHERS:
        return reference.by_given_statistics(x, mean, variance, weight, bias, eps, activation, residual)
    given = torch.empty(6, x.shape[1], dtype=torch.float64)
    given[0], given[1] = mean.detach(), variance.detach()
    torch.rsqrt(given[1] + eps, out=given[2])
    fused = activation if activation in _FUSED else None
    wide = fused != activation and x.dtype == torch.float32
    output, _ = _Normalise.apply(*_ready(x, weight, bias, residual), fused, eps, given, wide)  # type: ignore[no-untyped-call]
    return output if fused == activation else activate_own(output, activation)


def _ready(x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors as the loops take them: dense, the residual as ``x`` is, parameters in what is computed in."""
    if not (x.is_contiguous() or (x.dim() in (4, 5) and x.is_contiguous(memory_format=_last(x)))):
        x = x.contiguous()
    number = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight, bias = (None if p is None else p.to(number).contiguous() for p in (weight, bias))
    if residual is not None:
        residual = residual.to(x.dtype)
        if residual.stride() != x.stride():
            residual = residual.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else _last(x))
    return x, weight, bias, residual


def _last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _planes_forward(
    layout: Layout,
    x: Tensor,
    residual: Tensor | None,
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    eps: float,
    is_given: bool,
    wide: bool,
) -> None:
    loops = plane_loops(layout.kind, activation, residual is not None, layout.streams(y), wide)
    xa, ya, ra = x.data_ptr(), y.data_ptr(), _address(residual) or x.data_ptr()
    n, c, p = layout.examples, layout.channels, layout.positions
    wa, ba, sa = _address(weight), _address(bias), statistics.data_ptr()

    def part(_: int, first: int, last: int) -> None:
        if is_given:
            loops.affine(xa, ra, ya, n, c, p, first, last, wa, ba, sa)
        else:
            loops.forward(xa, ra, ya, n, c, p, first, last, wa, ba, sa, eps)

    in_parts(parts_for(c, layout.size), c, part)


def _columns_forward(
    layout: Layout,
    x: Tensor,
    residual: Tensor | None,
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    eps: float,
    is_given: bool,
    wide: bool,
) -> None:
    streams = layout.streams(y)
    plain = column_loops(layout.kind, activation, residual is not None, streams=False, wide=wide)
    xa, ya, ra = x.data_ptr(), y.data_ptr(), _address(residual) or x.data_ptr()
    c, p, w = layout.channels, layout.group, layout.width
    wa, ba, sa = _address(weight), _address(bias), statistics.data_ptr()
    rows = layout.size // w
    parts = parts_for(rows, layout.size)
    if parts == 1 and not streams:
        plain.whole_forward(xa, ra, ya, layout.size, w, layout.row, c, p, layout.count, wa, ba, sa, eps, is_given)
        return
    loops = column_loops(layout.kind, activation, residual is not None, streams=streams, wide=wide)
    rest = rows * w
    rest_rows = (layout.size - rest) // layout.row
    columns = np.empty((6, w), np.float64 if wide or layout.kind == "float64" else np.float32)
    if is_given:
        plain.spread(np.empty(w), columns, w, c, p, wa, ba, sa)
    else:
        sums = np.zeros((parts, 2, w))
        in_parts(parts, rows, lambda index, first, last: plain.sums(xa, 0, first, last, w, c, p, sums[index]))
        plain.sums(xa, rest, 0, rest_rows, layout.row, c, p, sums[0])
        plain.settle(xa, sums, columns, w, c, p, layout.count, wa, ba, sa, eps)
    in_parts(parts, rows, lambda _, first, last: loops.affine(xa, ra, ya, 0, first, last, w, columns))
    plain.affine(xa, ra, ya, rest, 0, rest_rows, layout.row, columns)


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    eps: float,
    is_frozen: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    layout = Layout(x)
    if gradient.stride() != x.stride():
        gradient = gradient.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else _last(x))
    dx = torch.empty_like(x)
    # Behind no activation, the gradient of the residual is that of the output.
    dr = torch.empty_like(x) if y is not None else gradient if residual is not None else None
    xa, ga, dxa, sa = x.data_ptr(), gradient.data_ptr(), dx.data_ptr(), statistics.data_ptr()
    ya, dra = (xa, dxa) if y is None or dr is None else (y.data_ptr(), dr.data_ptr())
    wa, ba = _address(weight), _address(bias)
    results = statistics.clone() if is_frozen else statistics
    sa = results.data_ptr()
    if layout.as_planes:
        loops = plane_loops(layout.kind, activation, y is not None, layout.streams(dx), wide=False)
        n, c, p = layout.examples, layout.channels, layout.positions

        def planes(_: int, first: int, last: int) -> None:
            loops.backward(xa, ga, ya, dxa, dra, n, c, p, first, last, wa, ba, sa, is_frozen)

        in_parts(parts_for(c, layout.size), c, planes)
    else:
        _columns_backward(
            layout, activation, y is not None, layout.streams(dx), (xa, ga, ya, dxa, dra), (wa, ba, sa), is_frozen
        )
    dw = None if weight is None else results[4].to(weight.dtype)
    db = None if bias is None else results[5].to(bias.dtype)
    return dx, dw, db, dr


def _columns_backward(
    layout: Layout,
    activation: str | None,
    adds: bool,
    streams: bool,
    tensors: tuple[int, int, int, int, int],
    parameters: tuple[int, int, int],
    is_frozen: bool,
) -> None:
    plain = column_loops(layout.kind, activation, adds, streams=False, wide=False)
    xa, ga, ya = tensors[:3]
    c, p, w = layout.channels, layout.group, layout.width
    rows = layout.size // w
    parts = parts_for(rows, layout.size)
    if parts == 1 and not streams:
        plain.whole_backward(*tensors, layout.size, w, layout.row, c, p, layout.count, *parameters, is_frozen)
        return
    loops = column_loops(layout.kind, activation, adds, streams=streams, wide=False)
    rest = rows * w
    rest_rows = (layout.size - rest) // layout.row
    columns = np.empty((6, w), np.float64 if layout.kind == "float64" else np.float32)
    means, sums = np.empty(w), np.zeros((parts, 2, w))
    plain.spread(means, columns, w, c, p, *parameters)

    def add(index: int, first: int, last: int) -> None:
        plain.backward_sums(xa, ga, ya, 0, first, last, w, means, columns, sums[index])

    in_parts(parts, rows, add)
    plain.backward_sums(xa, ga, ya, rest, 0, rest_rows, layout.row, means, columns, sums[0])
    plain.settle_backward(sums, columns, w, c, p, layout.count, parameters[2], is_frozen)
    in_parts(parts, rows, lambda _, first, last: loops.backward(*tensors, 0, first, last, w, columns))
    plain.backward(*tensors, rest, 0, rest_rows, layout.row, columns)
