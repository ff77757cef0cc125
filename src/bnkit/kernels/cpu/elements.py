"""What the compiled loops are made of: elements of any kind, and activations."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bnkit.kernels.activation import LEAKY_SLOPE
from bnkit.kernels.cpu import intrinsics
from bnkit.kernels.cpu.activations import curves

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
        parameters: An address as a pointer to what gamma and beta are: float32, or float64 with such elements.
        numbers: An address as a pointer to numbers.
        number: What is computed in: float32, or float64.
        load: ``load(elements, index)`` is an element as a number.
        save: ``save(elements, index, number)`` stores it as an element.
        activate: The activation.
        through: ``through(gradient behind the activation, what is known of it)`` is the gradient before it. Of ReLU and its
            leaky kin either the argument or the result is known; of sigmoid and tanh, the result; of silu, the argument.
    """

    pointer: Any
    parameters: Any
    numbers: Any
    number: Any
    load: Any
    save: Any
    activate: Any
    through: Any


@cache
def elements(kind: str, activation: str | None, *, streams: bool, wide: bool) -> Elements:
    """The building blocks for ``kind`` ("float32", "float64", "float16", "bfloat16").

    Args:
        kind: Of the elements.
        activation: None, "relu", "leaky_relu", "sigmoid", "tanh" or "silu".
        streams: Whether ``save`` stores past the caches; see ``intrinsics.stream`` for what that asks for.
        wide: Whether float32 elements are computed with in float64: for what goes on to a function that makes rounding
            errors larger.
    """
    read, store, get, put, stream = _LOAD[kind], _STORE[kind], intrinsics.get, intrinsics.put, intrinsics.stream
    own = np.float64 if kind == "float64" else np.float32
    number = np.float64 if wide else own

    if activation in ("sigmoid", "tanh", "silu"):
        activate, through = curves(activation, number, own)
    else:
        activate, through = _straight(activation, number)

    @njit(forceinline=True)
    def load(elements, index):
        return number(read(get(elements, index)))

    @njit(forceinline=True)
    def save(elements, index, value):
        if streams:
            stream(elements, index, store(own(value)))
        else:
            put(elements, index, store(own(value)))

    return Elements(
        intrinsics.pointer[_ELEMENTS[kind]],
        intrinsics.pointer[own],
        intrinsics.pointer[number],
        number,
        load,
        save,
        activate,
        through,
    )


def _straight(activation: str | None, number: Any) -> tuple[Any, Any]:
    """None, ReLU and its leaky kin, and the way of a gradient through them, compiled."""
    slope, nothing = number(LEAKY_SLOPE), number(0)
    is_relu, is_leaky = activation == "relu", activation == "leaky_relu"

    @njit(forceinline=True)
    def activate(z):
        if is_relu:
            return nothing if z <= nothing else z  # NaN goes through
        if is_leaky:
            return z * slope if z <= nothing else z
        return z

    @njit(forceinline=True)
    def through(gradient, z):
        if is_relu:
            return nothing if z <= nothing else gradient
        if is_leaky:
            return gradient * slope if z <= nothing else gradient
        return gradient

    return activate, through
