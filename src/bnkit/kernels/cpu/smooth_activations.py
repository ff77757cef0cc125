"""Sigmoid, tanh, silu and gelu for the compiled loops, from the exponential function of non-positive arguments.

All operations can be vectorised: ``exp(x) = 2^k * exp(r)``, where ``k`` is the integer nearest to ``x / ln 2``, and ``r`` the
remainder, of magnitude ``ln 2 / 2`` at most, for which a few terms of the Taylor series are exact to the last place.

``erfc(x) = exp(-x^2) * t * p(2 t - 1)`` for non-negative x, with ``t = 1 / (1 + x / 2.5)``: ``t`` falls from 1 to 0 as x goes from 0 to
infinity, so that a polynomial ``p`` approximates it everywhere. Its coefficients' magnitudes sum to about 1: no precision is lost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from bnkit.kernels.cpu import intrinsics

# By compute type: the number of terms of the series (the next one is below half a unit in the last place); ln 2 in two parts,
# the first with few enough digits that its products with k are exact; the argument below which the result is 0 (else subnormal).
_TERMS = {np.float32: 7, np.float64: 13}
_LN2 = {np.float32: (0.693359375, -2.12194440054690583e-4), np.float64: (0.693147180369123816, 1.90821492927058770e-10)}
_ERFC_WIDTH = 2.5
# The powers of 2 t - 1 from 0 on, of Chebyshev's polynomial through exp(x^2) * erfc(x) / t, made with 60 digits: off by 9e-9, 9e-17.
_ERFC = {
    np.float32: (
        0.4216127258791261, 0.3218607715311784, 0.18156581047508563, 0.06849979497157609, 0.011342670473006241, -0.0033532527495924586,
        -0.0019189444662674612, 0.0001655699939944654, 0.0002637163237931842, -1.0802851927939514e-05, -2.8064051672275075e-05,
    ),
    np.float64: (
        0.4216127281222872, 0.32186073977565927, 0.1815656466592384, 0.06850045809844763, 0.011344620052797892, -0.003357217721904868,
        -0.0019275142092821508, 0.0001756833200423262, 0.00028107748934135565, -2.3323223494144642e-05, -4.504192982418114e-05,
        7.813335383110337e-06, 7.297723520086234e-06, -2.7029522241719813e-06, -9.327979411546438e-07, 7.872549683511264e-07,
        -2.6981676373634754e-09, -1.8170530677190366e-07, 5.5684398226278584e-08, 2.967982426137417e-08, -2.147570943632587e-08,
        -2.5848158085343653e-09, 4.544666184431134e-09, 1.3869554058265714e-11, -4.557735030522008e-10,
    ),
}  # fmt: skip
_LOWEST = {np.float32: -87.0, np.float64: -708.0}


def smooth_activations(activation: str, acc_dtype: Any, own: Any) -> tuple[Any, Any]:
    """``activate(z)``, and ``activation_backward(gradient, known)``: ``known`` is the result for sigmoid and tanh, else the argument.

    Args:
        activation: "sigmoid", "tanh", "silu" or "gelu".
        acc_dtype: The compute type, ``np.float32`` or ``np.float64``.
        own: The type that gradients are rounded to, as in PyTorch between activation and batch norm; sums of equal ones are exact then.
    """
    if activation == "gelu":
        return _gelu(acc_dtype, own)
    split, fused = _exponential(acc_dtype), intrinsics.fused
    one, two, zero = acc_dtype(1), acc_dtype(2), acc_dtype(0)

    @njit(forceinline=True)
    def sigmoid(z):
        vanishes, power, beyond = split(-abs(z))
        e = zero if vanishes else fused(power, beyond, power)
        positive = one / (one + e)
        return positive if z >= zero else e * positive

    @njit(forceinline=True)
    def tanh(z):
        vanishes, power, beyond = split(-two * abs(z))
        e = -one if vanishes else fused(power, beyond, power - one)  # exp(-2 |z|) - 1, which does not cancel near 0
        t = -e / (two + e)
        return t if z >= zero else -t

    @njit(forceinline=True)
    def silu(z):
        return z * sigmoid(z)

    @njit(forceinline=True)
    def sigmoid_backward(gradient, y):
        return acc_dtype(own(gradient * (y * (one - y))))

    @njit(forceinline=True)
    def tanh_backward(gradient, y):
        return acc_dtype(own(gradient * (one - y * y)))

    @njit(forceinline=True)
    def silu_backward(gradient, z):
        y = sigmoid(z)
        return acc_dtype(own(gradient * (y * (one + z * (one - y)))))

    return {
        "sigmoid": (sigmoid, sigmoid_backward), "tanh": (tanh, tanh_backward), "silu": (silu, silu_backward),
    }[activation]  # fmt: skip


def _gelu(acc_dtype: Any, own: Any) -> tuple[Any, Any]:
    """The same for gelu: ``z`` times the normal distribution function of ``z``."""
    split, fused = _exponential(acc_dtype), intrinsics.fused
    series = _series([acc_dtype(factor) for factor in reversed(_ERFC[acc_dtype])])
    one, two, half, zero, width = (acc_dtype(number) for number in (1, 2, 0.5, 0, _ERFC_WIDTH))
    per_deviation, density = acc_dtype(math.sqrt(0.5)), acc_dtype(1 / math.sqrt(2 * math.pi))

    @njit(forceinline=True)
    def normal(z):  # the distribution function of z, and exp(-z^2 / 2)
        x = abs(z) * per_deviation
        vanishes, power, beyond = split(-x * x)
        e = zero if vanishes else fused(power, beyond, power)
        t = width / (width + x)
        beyond_z = half * e * t * series(two * t - one)
        return (beyond_z if z < zero else one - beyond_z), e

    @njit(forceinline=True)
    def gelu(z):
        below, _ = normal(z)
        return z * below

    @njit(forceinline=True)
    def gelu_backward(gradient, z):
        below, e = normal(z)
        return acc_dtype(own(gradient * (below + z * density * e)))

    return gelu, gelu_backward


def _exponential(acc_dtype: Any) -> Any:
    """A function of non-positive ``x``: whether exp(x) counts as 0; 2^k; exp(r) - 1. NaN stays NaN."""
    per_unit, (ln2_hi, ln2_lo) = acc_dtype(1 / math.log(2)), (acc_dtype(-part) for part in _LN2[acc_dtype])
    lowest, least = acc_dtype(_LOWEST[acc_dtype]), acc_dtype(math.floor(_LOWEST[acc_dtype] / math.log(2)))
    series = _series([acc_dtype(1 / math.factorial(n)) for n in range(_TERMS[acc_dtype], 1, -1)])
    nearest, power_of_two, fused = intrinsics.nearest, intrinsics.power_of_two, intrinsics.fused

    @njit(forceinline=True)
    def split(x):
        k = nearest(x * per_unit)
        k = k if k > least else least  # also for NaN, which has no nearest integer
        r = fused(k, ln2_lo, fused(k, ln2_hi, x))
        return x < lowest, power_of_two(k), fused(series(r) * r, r, r)

    return split


def _series(factors: list[Any]) -> Any:
    """A polynomial of ``r`` from its coefficients, the highest power first: nested functions, so that there is no loop."""
    factor, fused = factors[-1], intrinsics.fused
    if len(factors) == 1:
        return njit(forceinline=True)(lambda r: factor)  # noqa: ARG005 - of power 0
    higher = _series(factors[:-1])
    return njit(forceinline=True)(lambda r: fused(higher(r), r, factor))
