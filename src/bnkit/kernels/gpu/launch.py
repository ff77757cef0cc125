"""The two passes of batch normalization over a tensor, in Triton: which kernels, with which arguments."""

from __future__ import annotations

from contextlib import nullcontext
from ctypes import c_float
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from bnkit.kernels.gpu import backward as gpu_backward
from bnkit.kernels.gpu import forward as gpu_forward
from bnkit.kernels.gpu.cached_launch import start
from bnkit.kernels.gpu.tiling import Tiling, tiling_of
from bnkit.kernels.kernel_interface import BatchNormArgs

_MERGED = 4  # channels merged by a program
_MERGE_WARPS = 4
# Defaults differ between releases of Triton; explicit options give the same numbers in all of them.
_COMPILER = {"enable_fp_fusion": True}


def needs_output(args: BatchNormArgs) -> bool:
    """See ``fused.device_backend.Backend``: the argument of the activation is recomputed."""
    return False


def forward(args: BatchNormArgs, statistics: Tensor, float64_compute: bool) -> Tensor:
    """See ``fused.device_backend.Backend``; ``float64_compute`` is for activations that are not fused; here all are fused."""
    x, mean, var, weight, bias, training, momentum, eps, activation, residual, mask, count, counter = args
    assert isinstance(count, int)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    tiling = tiling_of(x, "forward", 1)
    mask = None if mask is None else mask.view(torch.uint8)
    channels = x.shape[1]
    sizes, cut = _shared(tiling, channels)
    buffers = (mean, var, counter)
    numbers = (count, *_halves(eps), *_halves(momentum))
    acts = {**cut, "ACTIVATION": activation}
    with _on(x):
        if not training or tiling.strategy == "split_reduction":
            grid = (tiling.programs, tiling.parts, 1)
            if training:
                partial = torch.empty((3, tiling.parts, channels), dtype=torch.float64, device=x.device)
                start(
                    gpu_forward.forward_sums, tiling, grid, (x, mask, partial), (*sizes, tiling.each, tiling.parts), cut
                )
                start(
                    gpu_forward.forward_merge, tiling, (-(-channels // _MERGED), 1, 1), (partial, statistics, *buffers),
                    (channels, tiling.parts, *numbers), _merging(tiling),
                )  # fmt: skip
            start(
                gpu_forward.forward_write, tiling, grid, (x, residual, y, weight, bias, statistics), (*sizes, tiling.each),
                acts, (activation,),
            )  # fmt: skip
        else:
            start(
                gpu_forward.forward_one_launch, tiling, (tiling.programs, 1, 1),
                (x, residual, y, weight, bias, mask, statistics, *buffers), (*sizes, *numbers),
                {**acts, "IN_REGISTERS": tiling.strategy == "in_registers"}, (activation,),
            )  # fmt: skip
    return y


def backward(
    gradient: Tensor, args: BatchNormArgs, output: Tensor | None, statistics: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See ``fused.device_backend.Backend``."""
    x, _, _, weight, bias, training, _, _, activation, residual, mask, count, _ = args
    assert isinstance(count, int)
    if activation is None:
        residual = None  # its gradient is the output's
    dx = torch.empty_like(x)
    dr = None if residual is None else torch.empty_like(x)
    channels, parameter_dtype = x.shape[1], torch.float64 if x.dtype == torch.float64 else torch.float32
    by_parameter = torch.empty((2, channels), dtype=parameter_dtype, device=x.device)
    if x.numel() == 0:
        return dx, dr, by_parameter.zero_()
    tiling = tiling_of(x, "backward", 2 if residual is None else 3)
    mask = None if mask is None else mask.view(torch.uint8)
    sizes, cut = _shared(tiling, channels)
    acts = {**cut, "ACTIVATION": activation}
    with _on(x):
        if tiling.strategy == "split_reduction":
            grid = (tiling.programs, tiling.parts, 1)
            partial = torch.empty((2, tiling.parts, channels), dtype=torch.float64, device=x.device)
            factors = torch.empty(
                (2, channels), dtype=torch.float64 if tiling.is_wide else torch.float32, device=x.device
            )
            start(
                gpu_backward.backward_sums, tiling, grid, (x, gradient, residual, weight, bias, mask, statistics, partial),
                (*sizes, tiling.each, tiling.parts), acts, (activation,),
            )  # fmt: skip
            start(
                gpu_backward.backward_merge, tiling, (-(-channels // _MERGED), 1, 1),
                (partial, statistics, weight, by_parameter, factors), (channels, tiling.parts, count),
                {**_merging(tiling), "ACC_DTYPE": cut["ACC_DTYPE"], "IS_GIVEN": not training}, (training,),
            )  # fmt: skip
            start(
                gpu_backward.backward_write, tiling, grid,
                (x, gradient, residual, dx, dr, weight, bias, mask, statistics, factors), (*sizes, tiling.each), acts,
                (activation,),
            )  # fmt: skip
        else:
            start(
                gpu_backward.backward_one_launch, tiling, (tiling.programs, 1, 1),
                (x, gradient, residual, dx, dr, weight, bias, mask, statistics, by_parameter), (*sizes, count),
                {**acts, "IS_GIVEN": not training, "IN_REGISTERS": tiling.strategy == "in_registers"},
                (activation, training),
            )  # fmt: skip
    return dx, dr, by_parameter


def _shared(tiling: Tiling, channels: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The common arguments of all kernels over tiles: sizes, and compile-time constants."""
    sizes = (tiling.rows, tiling.columns // tiling.unit, channels, tiling.column_tiles, tiling.tiles)
    return sizes, {
        "UNIT": tiling.unit,
        "A": tiling.tile[0],
        "B": tiling.tile[1],
        "BY_ROWS": tiling.by_rows,
        "EVEN": tiling.is_even,
        "LARGE": tiling.is_large,
        "ACC_DTYPE": tl.float64 if tiling.is_wide else tl.float32,
        "num_warps": tiling.warps,
        **_COMPILER,
    }


def _merging(tiling: Tiling) -> dict[str, Any]:
    return {"PARTS": 1 << (tiling.parts - 1).bit_length(), "B": _MERGED, "num_warps": _MERGE_WARPS, **_COMPILER}


def _halves(number: float) -> tuple[float, float]:
    """A Python number as two float32 values, because kernels take Python numbers as float32."""
    high = c_float(number).value
    return high, number - high


def _on(x: Tensor) -> Any:
    """Make the device of ``x`` the current one, on which kernels start."""
    if x.device.type == "cpu" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
