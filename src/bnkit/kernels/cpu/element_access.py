"""Building blocks of the compiled loops: loading and storing elements of any kind, and activations."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bnkit.kernels.activation import LEAKY_SLOPE
from bnkit.kernels.cpu import intrinsics
from bnkit.kernels.cpu.smooth_activations import smooth_activations

_ELEMENTS = {"float32": np.float32, "float64": np.float64, "float16": np.uint16, "bfloat16": np.uint16}
_LOAD = {
    "float32": intrinsics.same,
    "float64": intrinsics.same,
    "float16": intrinsics.from_float16,
    "bfloat16": intrinsics.from_bfloat16,
}
_STORE = {
    "float32": intrinsics.same,
    "float64": intrinsics.same,
    "float16": intrinsics.to_float16,
    "bfloat16": intrinsics.to_bfloat16,
}


class Elements(NamedTuple):
    """Building blocks for loops over elements of one kind, for Numba to inline.

    Attributes:
        pointer: An address as a pointer to elements.
        parameters: An address as a pointer to gamma or beta: float32, or float64 for float64 elements.
        numbers: An address as a pointer to numbers of the compute type.
        acc_dtype: The compute type: float32, or float64.
        load_element: ``load_element(elements, index)`` loads an element as a number.
        store_element: ``store_element(elements, index, number)`` stores it as an element.
        activate: The activation.
        activation_backward: ``activation_backward(gradient after the activation, known)`` is the gradient before it. ``known``
            is the argument or the result of ReLU and its variants, the result of sigmoid and tanh, the argument of silu
            and gelu.
    """

    pointer: Any
    parameters: Any
    numbers: Any
    acc_dtype: Any
    load_element: Any
    store_element: Any
    activate: Any
    activation_backward: Any


@cache
def elements(kind: str, activation: str | None, *, nontemporal: bool, float64_compute: bool) -> Elements:
    """The building blocks for ``kind`` ("float32", "float64", "float16", "bfloat16").

    Args:
        kind: The kind of elements.
        activation: None, "relu", "leaky_relu", "relu6", "sigmoid", "tanh", "silu" or "gelu".
        nontemporal: Whether ``store_element`` bypasses the caches; see ``intrinsics.stream`` for the requirements.
        float64_compute: Whether float32 elements are computed with in float64: for results passed to a function that amplifies
            rounding errors.
    """
    from_stored, to_stored, load, store, stream = (
        _LOAD[kind],
        _STORE[kind],
        intrinsics.load,
        intrinsics.store,
        intrinsics.stream,
    )
    own = np.float64 if kind == "float64" else np.float32
    acc_dtype = np.float64 if float64_compute else own

    if activation in ("sigmoid", "tanh", "silu", "gelu"):
        activate, activation_backward = smooth_activations(activation, acc_dtype, own)
    else:
        activate, activation_backward = _straight(activation, acc_dtype)

    @njit(forceinline=True)
    def load_element(elements, index):
        return acc_dtype(from_stored(load(elements, index)))

    @njit(forceinline=True)
    def store_element(elements, index, value):
        if nontemporal:
            stream(elements, index, to_stored(own(value)))
        else:
            store(elements, index, to_stored(own(value)))

    return Elements(
        intrinsics.pointer[_ELEMENTS[kind]],
        intrinsics.pointer[own],
        intrinsics.pointer[acc_dtype],
        acc_dtype,
        load_element,
        store_element,
        activate,
        activation_backward,
    )


def _straight(activation: str | None, acc_dtype: Any) -> tuple[Any, Any]:
    """No activation, ReLU or its variants, and their backward functions, compiled."""
    slope, zero, six = acc_dtype(LEAKY_SLOPE), acc_dtype(0), acc_dtype(6)
    is_relu, is_leaky, is_cut = activation == "relu", activation == "leaky_relu", activation == "relu6"

    @njit(forceinline=True)
    def activate(z):
        if is_relu:
            return zero if z <= zero else z  # keeps NaN, which max(zero, z) turns into 0
        if is_leaky:
            return z * slope if z <= zero else z
        if is_cut:
            z = zero if z <= zero else z
            return six if z >= six else z
        return z

    @njit(forceinline=True)
    def activation_backward(gradient, z):
        if is_relu:
            return zero if z <= zero else gradient
        if is_leaky:
            return gradient * slope if z <= zero else gradient
        if is_cut:
            gradient = zero if z <= zero else gradient
            return zero if z >= six else gradient
        return gradient

    return activate, activation_backward
