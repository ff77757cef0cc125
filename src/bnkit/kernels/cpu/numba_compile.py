"""The variants of loops, how they are compiled, and how they are cached on disk."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cfunc, njit, types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc

from bnkit.kernels.compilation.compile_warning import announced
from bnkit.kernels.compilation.loop_sources import digest_of_sources

# Enough to vectorise reductions; "nnan" and "ninf" would lose inf and NaN. So would np.isfinite with "reassoc", because it
# subtracts a number from itself: the loops compare with np.inf instead.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"fastmath": _FAST, "error_model": "numpy"}
# Each operation rounds as written, for loops that must match PyTorch bit for bit.
_AS_WRITTEN: dict[str, Any] = {"fastmath": False, "error_model": "numpy"}
# An address is valid as long as its object is alive.
_kept: list[Any] = []
# The names of the loops that this process had to compile.
compiled_here: list[str] = []


class Variant(NamedTuple):
    """The properties that a loop is specialised for.

    Attributes:
        kind: The kind of elements: "float32", "float64", "float16", "bfloat16".
        activation: None, or one that ``elements`` supports.
        has_residual: Whether a residual is added before the activation; backward, whether the gradient of the residual is written.
        needs_output: Whether the backward pass receives the output, from which it computes the slope of the activation.
        given_terms: Whether the backward pass receives the two correction terms for the statistics. If not, it subtracts them
            before scaling, so that constant gradients give exactly zero and no factor underflows in float32.
        nontemporal: Whether stores bypass the caches; the rows or planes then begin at multiples of 64 bytes.
        float64_compute: Whether it computes in float64, for every kind of elements.
        masked: Whether a mask selects the positions for the statistics, (N, P) bytes; over planes only.
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
        """A unique name."""
        return f"{self.kind}_{self.activation}_" + "".join(f"{flag:d}" for flag in self[2:])


def inner(loop: Any, variant: str, *, as_written: bool = False) -> Any:
    """Compile ``loop``, a closure over its specialisation, to be called by another loop; see ``outer``.

    It is cached on disk as part of that other loop, and its symbol name must include the variant. Numba distinguishes
    functions of one name by a counter, which restarts in every process; if two processes had compiled two variants, a third
    process that loaded both would silently use the first for the second.
    """
    loop.__qualname__ = _name(loop, variant)
    return njit(**(_AS_WRITTEN if as_written else _OPTIONS))(loop)


def outer(loop: Any, variant: str, *, as_written: bool = False) -> int:
    """The address of ``loop`` for C: compiled now, or loaded from disk.

    Args:
        loop: A function of the address of a table of ``loop_call``; a closure over its specialisation.
        variant: A name of the specialisation.
        as_written: Whether each operation rounds as written.
    """
    options = _AS_WRITTEN if as_written else _OPTIONS
    signature = types.void(types.CPointer(types.int64))  # type: ignore[no-untyped-call]
    loop.__qualname__ = _name(loop, variant)
    with announced():
        compiled = _compile(loop, signature, options)
    if not compiled.cache_hits:
        compiled_here.append(loop.__qualname__)
    _kept.append(compiled)
    return int(compiled.address or 0)


def _compile(loop: Any, signature: Any, options: dict[str, Any]) -> Any:
    compiled: Any = CFunc(loop, (signature.args, signature.return_type), {}, options)
    try:
        compiled._cache = _CacheByName(loop)  # type: ignore[no-untyped-call]
        compiled.compile()
    except Exception:  # a read-only folder, or an unreadable cache: then it is compiled for this process only
        compiled = cfunc(signature, **options)(loop)
    return compiled


def entry(function: Any) -> Any:
    """``function`` compiled for Python to call; it releases the interpreter's lock."""
    function.__qualname__ = _name(function, "entry")
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # as above; a folder that turns out to be read-only later only causes a warning
        return njit(nogil=True)(function)


class _CacheByName(FunctionCache):
    """Numba's disk cache of a closure whose name identifies its specialisation.

    By default, Numba also hashes the closure's variables, and the hash of compiled functions differs in every process.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return sig, codegen.magic_tuple()


def _name(loop: Any, variant: str) -> str:
    """A name with the variant and a digest of the sources that the loop may call, so that a changed source changes the name."""
    return f"{loop.__name__}_{variant}_{digest_of_sources(loop.__code__.co_filename)}"
