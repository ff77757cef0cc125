"""How the loops are compiled, and kept on disk."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

from numba import cfunc, njit, types

# Enough to let reductions use vectors; "nnan" and "ninf" would lose inf and NaN. So would np.isfinite, which subtracts a number
# from itself, with "reassoc": the loops compare with np.inf.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy"}
# Each operation rounds as it is written, for what has to give somebody else's bits.
_AS_WRITTEN: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
# An address is good as long as what it belongs to is kept.
_kept: list[Any] = []


def inner(loop: Any, names: dict[str, Any], variant: str, *, as_written: bool = False) -> Any:
    """``loop``, a function of a module, with other meanings of its global names, for another loop to call; see ``outer``.

    It is kept on disk within that other loop, under a name that the linker knows it by: the variant has to be in it. Numba
    tells functions of one name apart by a number, which begins anew in every process; where two processes had compiled two
    variants, a third one that loaded both would take the first for the second, in silence.
    """
    return njit(**(_AS_WRITTEN if as_written else _OPTIONS))(_twin(loop, names, variant))


def outer(loop: Any, names: dict[str, Any], variant: str, *, as_written: bool = False) -> int:
    """The address of ``loop`` compiled with other meanings of its global names: compiled now, or taken from the disk.

    Args:
        loop: A function of a module, its globals to be filled in; it takes the address of a table of ``loop_call``.
        names: What they mean.
        variant: What tells these meanings from others.
        as_written: Whether each operation rounds as it is written.
    """
    options = _AS_WRITTEN if as_written else _OPTIONS
    signature = types.void(types.CPointer(types.int64))  # type: ignore[no-untyped-call]
    twin = _twin(loop, names, variant)
    try:
        compiled = cfunc(signature, cache=True, **options)(twin)
    except Exception:  # a read-only folder, or what is kept cannot be read: then it is compiled for this process
        compiled = cfunc(signature, **options)(twin)
    _kept.append(compiled)
    return int(compiled.address or 0)


def entry(function: Any) -> Any:
    """``function`` compiled for Python to call; the interpreter's lock is released meanwhile."""
    twin = _twin(function, {}, "entry")
    try:
        return njit(cache=True, nogil=True)(twin)
    except RuntimeError:  # as above; a folder that turns out to be read-only later costs a warning
        return njit(nogil=True)(twin)


def _twin(loop: Any, names: dict[str, Any], variant: str = "") -> Any:
    """A function of the same code in other surroundings.

    Numba keys what it keeps on disk by the name and the code of a function, not by what its globals are, and would make
    a new entry in every process for a function that closes over others. So the variant is in the name, and so are the
    sources of all that it may call: a changed one has to make another name.
    """
    twin = FunctionType(loop.__code__, {**loop.__globals__, **names}, loop.__name__)
    twin.__module__ = loop.__module__
    if variant:
        twin.__qualname__ = f"{loop.__name__}_{variant}_{_sources()}"
    return twin


# The modules that loops are compiled from. The others say which loop is called with which tensors.
SOURCES = (
    "../activation", "aten_affine_loops", "loop_call", "intrinsics", "rows", "row_steps", "compiling", "elements", "activations",
    "running_stats", "planes",
)  # fmt: skip


@cache
def _sources() -> str:
    files = [Path(__file__).parent / f"{name}.py" for name in SOURCES]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
