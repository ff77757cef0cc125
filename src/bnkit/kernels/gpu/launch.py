"""The two passes of batch normalization over a tensor, in Triton: which kernels, with which arguments."""

from __future__ import annotations

from contextlib import nullcontext
from ctypes import c_float
from typing import Any, Literal

import torch
import triton.language as tl
from torch import Tensor

from bnkit.kernels.fused.backend import Moving
from bnkit.kernels.gpu import backward as gpu_backward
from bnkit.kernels.gpu import forward as gpu_forward
from bnkit.kernels.gpu.compiled import start
from bnkit.kernels.gpu.tiling import Plan, plan_of

_MERGED = 4  # channels that a program merges
_MERGE_WARPS = 4
# Releases of Triton differ in what they do unasked; so they give the same numbers.
_COMPILER = {"enable_fp_fusion": True}


def sees(activation: str | None, adds: bool) -> Literal["residual"] | None:
    """See ``fused.backend.Passes``: the argument of the activation is computed anew."""
    return "residual" if adds and activation is not None else None


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
    """See ``fused.backend.Passes``; ``wide`` is for what is not fused, and here everything is."""
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    plan = plan_of(x, "forward", 1)
    mask = None if mask is None else mask.view(torch.uint8)
    channels = x.shape[1]
    sizes, cut = _shared(plan, channels)
    buffers = (None, None, None) if moving is None else (moving.mean, moving.var, moving.num_batches_tracked)
    numbers = (count, *_halves(eps), *_halves(0.0 if moving is None else moving.momentum))
    acts = {**cut, "ACTIVATION": activation}
    with _on(x):
        if is_given or plan.way == "parts":
            grid = (plan.programs, plan.parts, 1)
            if not is_given:
                partial = torch.empty((3, plan.parts, channels), dtype=torch.float64, device=x.device)
                start(gpu_forward.forward_sums, plan, grid, (x, mask, partial), (*sizes, plan.each, plan.parts), cut)
                start(
                    gpu_forward.forward_merge, plan, (-(-channels // _MERGED), 1, 1), (partial, statistics, *buffers),
                    (channels, plan.parts, *numbers), _merging(plan),
                )  # fmt: skip
            start(
                gpu_forward.forward_write, plan, grid, (x, residual, y, weight, bias, statistics), (*sizes, plan.each),
                acts, (activation,),
            )  # fmt: skip
        else:
            start(
                gpu_forward.forward_whole if plan.way == "whole" else gpu_forward.forward_alone,
                plan, (plan.programs, 1, 1), (x, residual, y, weight, bias, mask, statistics, *buffers),
                (*sizes, *numbers), acts, (activation,),
            )  # fmt: skip
    return y


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
    """See ``fused.backend.Passes``."""
    dx = torch.empty_like(x)
    dr = torch.empty_like(x) if adds else None
    channels, number = x.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    by_parameter = torch.empty((2, channels), dtype=number, device=x.device)
    if x.numel() == 0:
        return dx, dr, by_parameter.zero_()
    plan = plan_of(x, "backward", 3 if adds else 2)
    mask = None if mask is None else mask.view(torch.uint8)
    sizes, cut = _shared(plan, channels)
    acts = {**cut, "ACTIVATION": activation}
    with _on(x):
        if plan.way == "parts":
            grid = (plan.programs, plan.parts, 1)
            partial = torch.empty((2, plan.parts, channels), dtype=torch.float64, device=x.device)
            factors = torch.empty(
                (2, channels), dtype=torch.float64 if plan.is_wide else torch.float32, device=x.device
            )
            start(
                gpu_backward.backward_sums, plan, grid, (x, gradient, seen, weight, bias, mask, statistics, partial),
                (*sizes, plan.each, plan.parts), acts, (activation,),
            )  # fmt: skip
            start(
                gpu_backward.backward_merge, plan, (-(-channels // _MERGED), 1, 1),
                (partial, statistics, weight, by_parameter, factors), (channels, plan.parts, count),
                {**_merging(plan), "NUMBER": cut["NUMBER"], "IS_GIVEN": is_given}, (is_given,),
            )  # fmt: skip
            start(
                gpu_backward.backward_write, plan, grid,
                (x, gradient, seen, dx, dr, weight, bias, mask, statistics, factors), (*sizes, plan.each), acts,
                (activation,),
            )  # fmt: skip
        else:
            start(
                gpu_backward.backward_whole if plan.way == "whole" else gpu_backward.backward_alone,
                plan, (plan.programs, 1, 1), (x, gradient, seen, dx, dr, weight, bias, mask, statistics, by_parameter),
                (*sizes, count), {**acts, "IS_GIVEN": is_given}, (activation, is_given),
            )  # fmt: skip
    return dx, dr, by_parameter


def _shared(plan: Plan, channels: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """What all kernels over tiles take: sizes, and what is known when they are compiled."""
    sizes = (plan.rows, plan.columns // plan.unit, channels, plan.column_tiles, plan.tiles)
    return sizes, {
        "UNIT": plan.unit,
        "A": plan.tile[0],
        "B": plan.tile[1],
        "BY_ROWS": plan.by_rows,
        "EVEN": plan.is_even,
        "LARGE": plan.is_large,
        "NUMBER": tl.float64 if plan.is_wide else tl.float32,
        "num_warps": plan.warps,
        **_COMPILER,
    }


def _merging(plan: Plan) -> dict[str, Any]:
    return {"PARTS": 1 << (plan.parts - 1).bit_length(), "B": _MERGED, "num_warps": _MERGE_WARPS, **_COMPILER}


def _halves(number: float) -> tuple[float, float]:
    """A kernel takes a number of Python as float32: so in two."""
    high = c_float(number).value
    return high, number - high


def _on(x: Tensor) -> Any:
    """Kernels start on the current device; this makes it that of ``x``."""
    if x.device.type == "cpu" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
