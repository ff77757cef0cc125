"""What a loop is compiled for, how it is compiled, and how it is kept on disk."""

from __future__ import annotations

from types import FunctionType
from typing import Any, NamedTuple

from numba import cfunc, njit, types

from bnkit.kernels.compilation.announcement import announced
from bnkit.kernels.compilation.loop_sources import digest_of_sources

# Enough to let reductions use vectors; "nnan" and "ninf" would lose inf and NaN. So would np.isfinite, which subtracts a number
# from itself, with "reassoc": the loops compare with np.inf.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy"}
# Each operation rounds as it is written, for what has to give somebody else's bits.
_AS_WRITTEN: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
# An address is good as long as what it belongs to is kept.
_kept: list[Any] = []
# The names of the loops that this process did not find on disk.
compiled_here: list[str] = []


class Variant(NamedTuple):
    """What a loop is compiled for.

    Attributes:
        kind: Of the elements: "float32", "float64", "float16", "bfloat16".
        activation: None, or one that ``elements`` knows.
        has_residual: Whether a residual is added before the activation; backward, whether the gradient of the residual is written.
        needs_output: Whether, backward, the output is given to tell the slope of the activation.
        given_terms: Whether, backward, it is given what to take away for the statistics. Otherwise that is taken away before
            anything is multiplied: where all gradients are the same, nothing is left, and no factor is too small for float32.
        nontemporal: Whether results go past the caches; their rows or planes then begin at multiples of 64 bytes.
        float64_compute: Whether it computes in float64, whatever the elements are.
        masked: Whether a mask says which positions count, (N, P) bytes; over planes only.
    """

    kind: str
    activation: str | None = None
    has_residual: bool = False
    needs_output: bool = False
    given_terms: bool = False
    nontemporal: bool = False
    float64_compute: bool = False
    masked: bool = False

    def __str__(self) -> str:
        """A name that no other one has."""
        return f"{self.kind}_{self.activation}_" + "".join(f"{flag:d}" for flag in self[2:])


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
    with announced():
        try:
            compiled = cfunc(signature, cache=True, **options)(twin)
        except Exception:  # a read-only folder, or what is kept cannot be read: then it is compiled for this process
            compiled = cfunc(signature, **options)(twin)
    if not compiled.cache_hits:
        compiled_here.append(twin.__qualname__)
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
        twin.__qualname__ = f"{loop.__name__}_{variant}_{digest_of_sources()}"
    return twin
