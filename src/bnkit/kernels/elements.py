"""What the compiled loops are made of: elements of any kind, activations, and how a loop is compiled."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from bnkit.kernels import bits

LEAKY_SLOPE = 0.01  # of torch.nn.LeakyReLU
# Enough to let reductions use vectors; "nnan" and "ninf" would lose inf and NaN.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
# What is inlined into a loop is not in the key either: a changed building block has to make another name.
_SOURCES = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, bits.__file__))).hexdigest()[:8]
_ELEMENTS = {"float32": np.float32, "float64": np.float64, "float16": np.uint16, "bfloat16": np.uint16}
_LOAD = {"float32": bits.same, "float64": bits.same, "float16": bits.from_float16, "bfloat16": bits.from_bfloat16}
_STORE = {"float32": bits.same, "float64": bits.same, "float16": bits.to_float16, "bfloat16": bits.to_bfloat16}


class Elements(NamedTuple):
    """Building blocks for loops over elements of one kind, for Numba to inline.

    Attributes:
        pointer: An address as a pointer to elements.
        parameters: An address as a pointer to what gamma and beta are: float32, or float64 with such elements.
        number: What is computed in: float32, or float64.
        load: An element as a number.
        put: ``put(array, index, number)`` stores it as an element.
        activate: The activation.
        through: ``through(gradient behind the activation, its argument or its result)`` is the gradient before it.
    """

    pointer: Any
    parameters: Any
    number: Any
    load: Any
    put: Any
    activate: Any
    through: Any


@cache
def elements(kind: str, activation: str | None, *, streams: bool, wide: bool) -> Elements:
    """The building blocks for ``kind`` ("float32", "float64", "float16", "bfloat16").

    Args:
        kind: Of the elements.
        activation: None, "relu" or "leaky_relu".
        streams: Whether ``put`` stores past the caches; see ``bits.stream`` for what that asks for.
        wide: Whether float32 elements are computed with in float64: for what goes on to a function that makes rounding
            errors larger.
    """
    read, store, stream = _LOAD[kind], _STORE[kind], bits.stream
    own = np.float64 if kind == "float64" else np.float32
    number = np.float64 if wide else own
    slope, nothing = number(LEAKY_SLOPE), number(0)
    is_relu, is_leaky = activation == "relu", activation == "leaky_relu"

    @njit(inline="always")
    def load(element):
        return number(read(element))

    @njit(inline="always")
    def activate(z):
        if is_relu:
            return nothing if z <= nothing else z  # NaN goes through
        if is_leaky:
            return z * slope if z <= nothing else z
        return z

    @njit(inline="always")
    def through(gradient, z):
        if is_relu:
            return nothing if z <= nothing else gradient
        if is_leaky:
            return gradient * slope if z <= nothing else gradient
        return gradient

    @njit(inline="always")
    def put(array, index, value):
        if streams:
            stream(array, index, store(own(value)))
        else:
            array[index] = store(own(value))

    return Elements(bits.pointer[_ELEMENTS[kind]], bits.pointer[own], number, load, put, activate, through)


def specialised(loop: Any, names: dict[str, Any], variant: str) -> Any:
    """``loop`` compiled with other meanings of its global names: on its first call, or taken from the disk.

    Numba keys what it keeps on disk by the name and the code of a function, not by what its globals are, and would make
    a new entry in every process for a function that closes over others. So the variant is in the name.

    Args:
        loop: A function of a module, its globals to be filled in.
        names: What they mean.
        variant: What tells these meanings from others.
    """
    twin = FunctionType(loop.__code__, {**loop.__globals__, **names}, loop.__name__)
    twin.__module__ = loop.__module__
    twin.__qualname__ = f"{loop.__name__}_{variant}_{_SOURCES}"
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(twin)
    except RuntimeError:  # nowhere to keep compiled code: a read-only folder
        return njit(**options)(twin)
