"""Intrinsics that Numba lacks: pointers, half precision, fused multiply-add, non-temporal stores, calls by address."""

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


# By the NumPy type of the elements: the address of a tensor as a pointer. Converting a tensor to an array in Python takes
# longer than many kernels, and loops over arrays take three times as long to compile as loops over pointers.
pointer = {
    np.float32: _pointer_to(types.float32),
    np.float64: _pointer_to(types.float64),
    np.uint16: _pointer_to(types.uint16),
    np.uint8: _pointer_to(types.uint8),
    np.int64: _pointer_to(types.int64),
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
def nearest(typing_context: Any, value: Any) -> Any:
    """The integer nearest to a float, as a float. It vectorises, unlike ``round``, which calls a function."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), arguments)

    return value(value), generate


@intrinsic
def power_of_two(typing_context: Any, exponent: Any) -> Any:
    """2 to the power of an integer given as a float, in the same type; the result must be a normal number."""
    size, digits, offset = (32, 23, 127) if exponent == types.float32 else (64, 52, 1023)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(size)
        biased = builder.add(builder.fptosi(arguments[0], word), ir.Constant(word, offset))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, digits)), arguments[0].type)

    return exponent(exponent), generate


@intrinsic
def advance(typing_context: Any, pointer: Any, count: Any) -> Any:
    """The pointer advanced by ``count`` elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.intp), generate


@intrinsic
def load(typing_context: Any, pointer: Any, index: Any) -> Any:
    """The element at ``index``. Unchecked, as in C: the checks of array indexing would prevent vectorisation."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return pointer.dtype(pointer, types.intp), generate


@intrinsic
def store(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Store ``value`` at ``index``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, pointer.dtype), generate


@intrinsic
def fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once, regardless of fast-math flags; slow if the processor has no such instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), generate


@intrinsic
def stream(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Store ``value`` at ``index``, bypassing the caches: for values that are not read soon.

    It promises the compiler that the element is at a multiple of 64 bytes, so that it can store whole cache lines; the
    caller must ensure this for every vector of a loop (a segmentation fault otherwise).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store = builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]), align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, pointer.dtype), generate


@intrinsic
def prefetch(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Prefetch the element at ``index`` into the second-level cache; the index may be out of range."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), name)
        target = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        read, level, is_data = ir.Constant(word, 0), ir.Constant(word, 2), ir.Constant(word, 1)
        builder.call(function, [target, read, level, is_data])
        return context.get_dummy_value()

    return types.void(pointer, types.intp), generate


@intrinsic
def run_team(typing_context: Any, start: Any, function: Any, argument: Any, threads: Any) -> Any:
    """``GOMP_parallel``: call a function, given by its address, with ``argument`` on ``threads`` threads, and wait."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, word, word])
        begin, function, argument, threads = arguments
        parts = [builder.inttoptr(function, byte), builder.inttoptr(argument, byte), builder.trunc(threads, word)]
        builder.call(builder.inttoptr(begin, kind.as_pointer()), [*parts, ir.Constant(word, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def call_with(typing_context: Any, function: Any, argument: Any) -> Any:
    """Call a function, given by its address, with ``argument``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [builder.inttoptr(arguments[1], byte)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def number_from(typing_context: Any, function: Any) -> Any:
    """Call a C function without arguments, given by its address, and return its int."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        result = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return builder.sext(result, ir.IntType(64))

    return types.int64(types.int64), generate


@njit(forceinline=True)
def same(value: Any) -> Any:
    """The value itself, for elements that are already numbers."""
    return value
