"""The output of PyTorch's batch normalization from its statistics, followed by a sum and ReLU, in one pass over memory.

Bit for bit the result of ``torch.nn.functional.batch_norm``, ``+`` and ``relu``, float32 on the CPU; see ``aten_affine_loops``.
"""

from __future__ import annotations

import math
import platform
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bnkit.kernels.cpu.aten_affine_loops import SCRATCH, affine_loop
from bnkit.kernels.cpu.layout import CACHE_LINE
from bnkit.kernels.cpu.loop_call import GIVEN_ONES, OWN, LoopCall, loop_call_for, run
from bnkit.kernels.cpu.threads import available, threads_for

# From this many positions on, each plane has its own loop; in smaller ones, the remainder of a vector takes most of the time.
_LEAST_PLANE = 32
# Columns in a row: just enough to fill some vectors.
_COLUMNS = 128
# From this many bytes on, stores bypass the caches.
_STREAM_FROM = 1 << 23


class AffineLayout(NamedTuple):
    """The order in which a loop visits a tensor.

    Attributes:
        name: The name of the loop.
        rows: The number of examples, or of rows of ``columns``.
        channels, positions: C, and the number of adjacent values of a channel.
        size: The number of elements.
        columns: The number of columns in a row.
        pieces: The number of pieces that the threads share.
        nontemporal: Whether the rows or planes are whole cache lines and large enough for stores that bypass the caches.
    """

    name: str
    rows: int
    channels: int
    positions: int
    size: int
    columns: int
    pieces: int
    nontemporal: bool


@lru_cache(maxsize=1024)
def affine_layout(shape: torch.Size, stride: tuple[int, ...]) -> AffineLayout | None:
    """The layout of a tensor (N, C, *); None if it is neither contiguous nor channels last."""
    size = math.prod(shape)
    if size == 0 or len(shape) < 2:
        return None
    channels, positions = shape[1], size // shape[0] // shape[1]
    large = size * 4 >= _STREAM_FROM
    if _is_dense(shape, stride, range(len(shape))):
        if positions >= _LEAST_PLANE:
            nontemporal = large and positions * 4 % CACHE_LINE == 0
            return AffineLayout("planes", shape[0], channels, positions, size, 0, shape[0] * channels, nontemporal)
        inner = channels * positions
    elif len(shape) in (4, 5) and _is_dense(shape, stride, (0, *range(2, len(shape)), 1)):
        inner, positions = channels, 1
    else:
        return None
    columns = inner * max(1, _COLUMNS // inner)
    rows = -(-size // columns)
    return AffineLayout("rows", rows, channels, positions, size, columns, rows, large and columns * 4 % CACHE_LINE == 0)


def _is_dense(shape: torch.Size, stride: tuple[int, ...], order: range | tuple[int, ...]) -> bool:
    """Whether the dimensions lie in memory in that order, the last one innermost, without gaps."""
    expected = 1
    for dimension in reversed(order):
        if shape[dimension] != 1 and stride[dimension] != expected:
            return False
        expected *= shape[dimension]
    return True


@cache
def is_possible() -> bool:
    """Whether PyTorch's kernels were compiled for a processor with fused multiply-add."""
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX") or platform.machine().lower() in ("aarch64", "arm64")


def coefficients(
    mean: Tensor, rstd_or_variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, is_given: bool
) -> Tensor:
    """The factor and the summand of each channel, alpha and beta: (2, C).

    Args:
        mean, weight, bias: (C,) float32 on the CPU, contiguous; weight and bias may be None.
        rstd_or_variance: Likewise: ``1 / sqrt(variance + eps)``, or the variance if ``is_given``.
        eps: Added to a given variance.
        is_given: Whether the statistics are given, not computed from the batch.
    """
    factors = torch.empty(2, mean.shape[0])
    w, b, at = 0 if weight is None else weight.data_ptr(), 0 if bias is None else bias.data_ptr(), factors.data_ptr()
    call = _coefficients(mean.shape[0], GIVEN_ONES if is_given else OWN)
    run(call.address, w, b, at, 0, 0, 0, 0, 0, mean.data_ptr(), rstd_or_variance.data_ptr(), 0, 0, eps, 0, 0, 0, 0.0, 0)
    return factors


def affine(x: Tensor, of_x: Tensor, residual: Tensor | None, of_residual: Tensor | None, relu: bool) -> Tensor:
    """``relu(x * alpha + beta + residual)``, in the memory layout of ``x``.

    Args:
        x: (N, C, *) float32, with an ``affine_layout``. ``residual``: same shape, dtype and layout as ``x``, or None.
        of_x: The coefficients of ``x``, (2, C).
        of_residual: Those of the residual, if it is normalised too.
        relu: Whether negative values become 0.
    """
    layout = affine_layout(x.shape, x.stride())
    assert layout is not None
    y = torch.empty_like(x)
    xa, ya, of_xa = x.data_ptr(), y.data_ptr(), of_x.data_ptr()
    ra = xa if residual is None else residual.data_ptr()
    of_ra = of_xa if of_residual is None else of_residual.data_ptr()
    aligned = ya % CACHE_LINE == 0
    call = _loop_call(layout, residual is not None, of_residual is not None, relu, aligned, available())
    run(call.address, xa, ra, ya, 0, 0, 0, of_xa, of_ra, 0, 0, 0, layout.size, 0.0, 0, 0, 0, 0.0, 0)
    return y


@lru_cache(maxsize=1024)
def _loop_call(
    layout: AffineLayout, has_residual: bool, norm_residual: bool, relu: bool, is_aligned: bool, available: int
) -> LoopCall:
    loop = affine_loop(layout.name, has_residual, norm_residual, relu, layout.nontemporal and is_aligned)
    threads = threads_for(layout.pieces, layout.size, available)
    return loop_call_for(
        (loop, 0, 0), threads=threads, scratch=SCRATCH * layout.columns * threads, examples=layout.rows,
        channels=layout.channels, positions=layout.positions, block=layout.columns,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _coefficients(channels: int, mode: int) -> LoopCall:
    return loop_call_for((affine_loop("coefficients", False, False, False, False), 0, 0), channels=channels, mode=mode)
