"""Sigmoid, tanh and silu for the compiled loops: the exponential function of what is not above 0, in operations that vectors have.

``exp(x) = 2^k * exp(r)`` with ``k`` the whole number nearest to ``x / ln 2``, and ``r`` what is left: at most ``ln 2 / 2`` from 0,
where Taylor's series is exact to the last place after a few terms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from bnkit.kernels.cpu import intrinsics

# By the type that is computed in: terms of the series, where the next one is below half a unit of the last place; ln 2 in two
# parts, the first of so few digits that its products with k are exact; below what the result is 0 (it would have no full precision).
_TERMS = {np.float32: 7, np.float64: 13}
_LN2 = {np.float32: (0.693359375, -2.12194440054690583e-4), np.float64: (0.693147180369123816, 1.90821492927058770e-10)}
_LOWEST = {np.float32: -87.0, np.float64: -708.0}


def smooth_activations(activation: str, acc_dtype: Any, own: Any) -> tuple[Any, Any]:
    """``activate(z)``, and ``activation_backward(gradient, known)``: sigmoid's and tanh's result is known, and silu's argument.

    Args:
        activation: "sigmoid", "tanh" or "silu".
        acc_dtype: ``np.float32`` or ``np.float64``, what is computed in.
        own: What gradients are rounded to, as PyTorch's are between activation and batch norm: sums of many alike are exact then.
    """
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


def _exponential(acc_dtype: Any) -> Any:
    """A function of ``x``, not above 0: whether exp(x) counts as 0; 2^k; exp(r) - 1. NaN stays NaN."""
    per_unit, (ln2_hi, ln2_lo) = acc_dtype(1 / math.log(2)), (acc_dtype(-part) for part in _LN2[acc_dtype])
    lowest, least = acc_dtype(_LOWEST[acc_dtype]), acc_dtype(math.floor(_LOWEST[acc_dtype] / math.log(2)))
    series = _series([acc_dtype(1 / math.factorial(n)) for n in range(_TERMS[acc_dtype], 1, -1)])
    nearest, power_of_two, fused = intrinsics.nearest, intrinsics.power_of_two, intrinsics.fused

    @njit(forceinline=True)
    def split(x):
        k = nearest(x * per_unit)
        k = k if k > least else least  # of NaN too: no whole number is like it
        r = fused(k, ln2_lo, fused(k, ln2_hi, x))
        return x < lowest, power_of_two(k), fused(series(r) * r, r, r)

    return split


def _series(factors: list[Any]) -> Any:
    """A polynomial of ``r`` by its factors, the highest power's first: one function around another, which leaves no loop."""
    factor, fused = factors[-1], intrinsics.fused
    if len(factors) == 1:
        return njit(forceinline=True)(lambda r: factor)  # noqa: ARG005 - of power 0
    higher = _series(factors[:-1])
    return njit(forceinline=True)(lambda r: fused(higher(r), r, factor))
