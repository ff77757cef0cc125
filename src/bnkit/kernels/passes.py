"""The two passes of batch normalization over a tensor on the CPU: which compiled loop, with which arguments."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from bnkit.kernels.activation import SLOPE_BY_RESULT
from bnkit.kernels.arguments import FIRST_HALF, GIVEN_ONES, OWN, SECOND_HALF, run
from bnkit.kernels.column_loops import column_loop
from bnkit.kernels.device_passes import Moving
from bnkit.kernels.following import follow
from bnkit.kernels.layout import CACHE_LINE, Layout, layout_of
from bnkit.kernels.plane_loops import plane_loop
from bnkit.kernels.threads import team
from bnkit.kernels.variant import Variant


def sees(activation: str | None, adds: bool) -> Literal["output"] | None:
    """See ``device_passes.Passes``."""
    return "output" if activation in SLOPE_BY_RESULT or (adds and activation is not None) else None


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    count: int,
    statistics: Tensor,
    activation: str | None,
    eps: float,
    is_given: bool,
    wide: bool,
    moving: Moving | None = None,
) -> Tensor:
    """``activation((x - mean) * rstd * gamma + beta + residual)``, as ``x`` lies in memory.

    Args:
        x: (N, C, *), dense: contiguous, or channels last. ``residual``: as ``x`` in every way, or None.
        weight, bias: gamma and beta, (C,), contiguous, float32, or float64 with such an ``x``; None for 1 and 0.
        mask: What counts, N times the positions, bool, for a contiguous ``x``; None for all of it.
        count: How many values of a channel count.
        statistics: (6, C) float64: mean, biased variance, 1 / sqrt(variance + eps), unbiased variance, and room for two
            more rows. Filled in, or taken as they are if ``is_given``.
        activation: None, "relu" or "leaky_relu".
        eps: Added to the variance.
        is_given: Whether the statistics are.
        wide: Whether to compute in float64.
        moving: Buffers that follow the statistics; float32, contiguous, or None.
    """
    layout = layout_of(x, as_planes=mask is not None)
    y = torch.empty_like(x)
    ya, xa = y.data_ptr(), x.data_ptr()
    streams = layout.can_stream and ya % CACHE_LINE == 0
    variant = Variant(
        layout.kind,
        activation,
        adds=residual is not None,
        streams=streams,
        wide=wide or layout.is_small,
        masked=mask is not None,
    )
    _call("forward", layout, variant, (xa, _address(residual) or xa, ya, xa, xa, xa), weight, bias, statistics,
          statistics.data_ptr() + 32 * layout.channels, mask, count, GIVEN_ONES if is_given else OWN, eps)  # fmt: skip
    if moving is not None:
        follow(moving.mean.data_ptr(), moving.var.data_ptr(), statistics.data_ptr(), layout.channels, moving.momentum)
    return y


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each channel and its biased variance, (C,) float64; ``x`` is read, and nothing written."""
    layout = layout_of(x)
    statistics = torch.empty(6, layout.channels, dtype=torch.float64)
    xa = x.data_ptr()
    variant = Variant(layout.kind, wide=layout.is_small)
    _call("forward", layout, variant, (xa, xa, xa, xa, xa, xa), None, None, statistics,
          statistics.data_ptr() + 32 * layout.channels, None, layout.values, FIRST_HALF, 0.0)  # fmt: skip
    return statistics[0], statistics[1]


def backward_sums(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    activation: str | None,
) -> Tensor:
    """The gradients of gamma and beta, (2, C) float64, as ``backward`` has them; nothing is written."""
    layout = layout_of(x)
    by_parameter = torch.empty(2, layout.channels, dtype=torch.float64)
    xa = x.data_ptr()
    adds = y is not None
    variant = Variant(layout.kind, activation, adds=adds, sees=adds, wide=layout.is_small)
    addresses = (xa, xa, _address(y) or xa, gradient.data_ptr(), xa, xa)
    _call("backward", layout, variant, addresses, weight, bias, statistics, by_parameter.data_ptr(), None, 1,
          FIRST_HALF, 0.0)  # fmt: skip
    return by_parameter


def backward_shares(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    activation: str | None,
    through_statistics: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The gradients of ``x``, and of the residual where ``y`` is given; the others are as for ``backward``.

    ``through_statistics``, (2, C) float64: what is taken away from the gradient of each value for what it did to the
    statistics: the first row times (x - mean), and the second row.
    """
    layout = layout_of(x)
    dx = torch.empty_like(x)
    dr = None if y is None else torch.empty_like(x)
    xa, dxa = x.data_ptr(), dx.data_ptr()
    streams = layout.can_stream and dxa % CACHE_LINE == 0 and (dr is None or dr.data_ptr() % CACHE_LINE == 0)
    adds = y is not None
    variant = Variant(layout.kind, activation, adds=adds, sees=adds, streams=streams, wide=layout.is_small)
    addresses = (xa, xa, _address(y) or xa, gradient.data_ptr(), dxa, _address(dr) or dxa)
    _call("backward", layout, variant, addresses, weight, bias, statistics, through_statistics.data_ptr(), None, 1,
          SECOND_HALF, 0.0)  # fmt: skip
    return dx, dr


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    seen: Tensor | None,
    mask: Tensor | None,
    count: int,
    statistics: Tensor,
    activation: str | None,
    is_given: bool,
    adds: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of ``x``; of the residual, if it ``adds`` one; and of gamma and beta, (2, C) float64.

    Args:
        gradient: Of the output; as ``x`` in every way.
        seen: The output, where ``sees`` asks for it: it tells the slope of the activation.
        statistics: What the forward pass used.
        adds: Whether a residual was added before an activation.
    """
    layout = layout_of(x, as_planes=mask is not None)
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if adds else None
    by_parameter = torch.empty(2, layout.channels, dtype=torch.float64)
    xa, dxa = x.data_ptr(), dx.data_ptr()
    streams = layout.can_stream and dxa % CACHE_LINE == 0 and (dr is None or dr.data_ptr() % CACHE_LINE == 0)
    variant = Variant(
        layout.kind,
        activation,
        adds=adds,
        sees=seen is not None,
        streams=streams,
        wide=layout.is_small,
        masked=mask is not None,
    )
    addresses = (xa, xa, _address(seen) or xa, gradient.data_ptr(), dxa, _address(dr) or dxa)
    _call("backward", layout, variant, addresses, weight, bias, statistics, by_parameter.data_ptr(), mask, count,
          GIVEN_ONES if is_given else OWN, 0.0)  # fmt: skip
    return dx, dr, by_parameter


def measure(x: Tensor) -> Tensor:
    """The means of each example of a contiguous ``x``, of all, and the sums of squared deviations: (N, C, *) to (N + 2, C) float64."""
    layout = layout_of(x, as_planes=True)
    statistics = torch.empty(layout.examples + 2, layout.channels, dtype=torch.float64)
    variant = Variant(layout.kind, wide=layout.is_small)
    xa = x.data_ptr()
    _call(
        "measure",
        layout,
        variant,
        (xa, xa, xa, xa, xa, xa),
        None,
        None,
        statistics,
        xa,
        None,
        layout.values,
        False,
        0.0,
    )
    return statistics


def _call(
    direction: str,
    layout: Layout,
    variant: Variant,
    tensors: tuple[int, int, int, int, int, int],
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    sums: int,
    mask: Tensor | None,
    count: int,
    mode: int,
    eps: float,
) -> None:
    first, between, second = _loops(direction, layout.way, variant, mode)
    run(*team(), first, between, second, layout.threads, layout.scratch, *tensors, _address(weight), _address(bias),
        statistics.data_ptr(), sums, _address(mask) or tensors[0], layout.examples, layout.channels, layout.positions, count,
        mode, int(layout.ahead), layout.block, eps)  # fmt: skip


@cache
def _loops(direction: str, way: str, variant: Variant, mode: int) -> tuple[int, int, int]:
    """The addresses of the loops, in turn: on all threads, on one, on all of them; 0 for none."""
    # What is computed in float64 anyway is not wide.
    variant = variant._replace(wide=variant.wide and variant.kind != "float64", apart=mode == SECOND_HALF)
    if way == "planes":
        return plane_loop(direction, variant), 0, 0
    if way == "blocks":
        return column_loop(direction, variant), 0, 0
    write = column_loop(f"{direction}_write", variant)
    if mode == SECOND_HALF or (direction == "forward" and mode == GIVEN_ONES):
        return write, 0, 0
    # What is not written differs neither by the activation (forward) nor by how it is stored.
    unwritten = variant._replace(streams=False)
    if direction == "forward":
        unwritten = unwritten._replace(activation=None, adds=False)
    sums = column_loop(f"{direction}_sums", unwritten)
    settle = column_loop(f"{direction}_settle", Variant(variant.kind, wide=variant.wide))
    return sums, settle, 0 if mode == FIRST_HALF else write


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
