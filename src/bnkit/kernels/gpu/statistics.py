"""Computations once per channel, in float64, in Triton: its statistics, its scale and shift, its gradients.

The pointers are those of ``forward`` and ``backward``, whose docstrings have their shapes, strides and dtypes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from bnkit.kernels.gpu.device_functions import parameter


@triton.jit
def merge(many, mean, squares):
    """The moments of all parts, (parts, channels) each, in a fixed order."""
    count = tl.sum(many, 0, keep_dims=True)
    some = tl.where(count > 0, count, 1.0)
    has = many > 0
    common = tl.sum(tl.where(has, many * mean, 0.0), 0, keep_dims=True) / some
    off = mean - common
    return common, tl.sum(tl.where(has, squares + many * (off * off), 0.0), 0, keep_dims=True)


@triton.jit
def join_halves(high, low):
    """A Python number, passed as two float32 values, with 48 bits."""
    return tl.cast(high, tl.float64) + tl.cast(low, tl.float64)


@triton.jit
def finalize(
    statistics, running_mean, running_var, tracked, channel, exists, channels, mean, squares, count, eps, eps_low, momentum,
    momentum_low,
):  # fmt: skip
    """Store mean, biased variance, 1 / sqrt(variance + eps) and unbiased variance; update the running buffers and the counter.

    Returns:
        1 / sqrt(variance + eps).
    """
    # Triton evaluates the first condition at compile time, and does not allow combining it with the second.
    if tracked is not None:  # noqa: SIM102
        if tl.program_id(0) == 0:
            tl.store(tracked, tl.load(tracked) + 1)
    count = tl.cast(count, tl.float64)
    variance = squares.to(tl.float64) / count
    inverse = 1.0 / tl.sqrt(variance + join_halves(eps, eps_low))
    unbiased = variance * (count / (count - 1.0))
    tl.store(statistics + channel, mean, mask=exists)
    tl.store(statistics + channels + channel, variance, mask=exists)
    tl.store(statistics + 2 * channels + channel, inverse, mask=exists)
    tl.store(statistics + 3 * channels + channel, unbiased, mask=exists)
    if running_mean is not None:
        new = join_halves(momentum, momentum_low)
        old = 1.0 - new
        before = tl.load(running_mean + channel, mask=exists, other=0.0).to(tl.float64)
        tl.store(running_mean + channel, (old * before + new * mean).to(running_mean.dtype.element_ty), mask=exists)
        before = tl.load(running_var + channel, mask=exists, other=0.0).to(tl.float64)
        tl.store(running_var + channel, (old * before + new * unbiased).to(running_var.dtype.element_ty), mask=exists)
    return inverse


@triton.jit
def affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE: tl.constexpr):
    """``mean_hi``, ``scale`` and ``shift`` of ``(x - mean_hi) * scale + shift``, and the mean's remainder after ``mean_hi``.

    The error of rounding the mean to float32 could exceed a small deviation: the shift includes the remainder.
    """
    mean_hi = mean.to(ACC_DTYPE)
    mean_lo = mean - mean_hi.to(tl.float64)
    mean_lo = tl.where(tl.abs(mean_lo) < float("inf"), mean_lo, 0.0)
    scale = inverse * parameter(weight, channel, exists, 1.0)
    shift = parameter(bias, channel, exists, 0.0) - mean_lo * scale
    return mean_hi, scale.to(ACC_DTYPE), shift.to(ACC_DTYPE), mean_lo


@triton.jit
def saved_affine(statistics, weight, bias, channel, exists, channels, ACC_DTYPE: tl.constexpr):
    """The result of ``affine`` for the statistics of the forward pass, and their 1 / sqrt(variance + eps)."""
    mean = tl.load(statistics + channel, mask=exists, other=0.0)
    inverse = tl.load(statistics + 2 * channels + channel, mask=exists, other=0.0)
    mean_hi, scale, shift, mean_lo = affine(mean, inverse, weight, bias, channel, exists, ACC_DTYPE)
    return mean_hi, scale, shift, mean_lo, inverse


@triton.jit
def backward_coefficients(
    total, with_x, inverse, mean_lo, weight, by_parameter, channel, exists, channels, count, IS_GIVEN: tl.constexpr,
    ACC_DTYPE: tl.constexpr,
):  # fmt: skip
    """Store the gradients of gamma and beta; return ``c0`` and ``c1`` of ``dx = dz * scale + (x - mean_hi) * c1 + c0``."""
    total, with_x = total.to(tl.float64), with_x.to(tl.float64)
    with_x -= mean_lo * total
    tl.store(by_parameter + channel, (with_x * inverse).to(by_parameter.dtype.element_ty), mask=exists)
    tl.store(by_parameter + channels + channel, total.to(by_parameter.dtype.element_ty), mask=exists)
    scale = inverse * parameter(weight, channel, exists, 1.0) / tl.cast(count, tl.float64)
    if IS_GIVEN:  # they do not depend on x
        scale = tl.zeros_like(scale)
    c1 = -scale * inverse * inverse * with_x
    return (-scale * total - c1 * mean_lo).to(ACC_DTYPE), c1.to(ACC_DTYPE)
