"""What Numba lacks for kernels: arrays at an address, half precision, and stores that pass the caches by."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def at(typing_context: Any, address: Any) -> Any:
        signature = types.CPointer(kind)(types.uint64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return at


# By the NumPy type of the elements: the address of a tensor as a pointer, for `carray`. Making an array of a tensor in
# Python takes longer than many a kernel runs.
pointer = {
    np.float32: _pointer_to(types.float32),
    np.float64: _pointer_to(types.float64),
    np.uint16: _pointer_to(types.uint16),
}


@intrinsic
def from_float16(typing_context: Any, value: Any) -> Any:
    """The bits of a float16, uint16, as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def to_float16(typing_context: Any, value: Any) -> Any:
    """A float32 as the bits of the nearest float16, uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def from_bfloat16(typing_context: Any, value: Any) -> Any:
    """The bits of a bfloat16, uint16, as a float32: they are its upper half."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        wide = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def to_bfloat16(typing_context: Any, value: Any) -> Any:
    """A float32 as the bits of the nearest bfloat16, ties to even; NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)

        def constant(number: int) -> Any:
            return ir.Constant(word, number)

        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
        is_nan = builder.icmp_unsigned(">", builder.and_(bits, constant(0x7FFFFFFF)), constant(0x7F800000))
        return builder.trunc(builder.select(is_nan, constant(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def stream(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value`` past the caches: for what nobody reads soon.

    It promises the compiler that the element lies at a multiple of 64 bytes, so that it can store whole cache lines; the
    caller has to see to it that every vector of a loop does (a segmentation fault otherwise).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, place, number = arguments
        data = context.make_array(signature.args[0])(context, builder, target).data
        store = builder.store(number, builder.gep(data, [place]), align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@njit(inline="always")
def same(value: Any) -> Any:
    """The value itself, where the elements are numbers already."""
    return value
