"""Fingerprints of a user's functions: changed code gets new runs, unchanged code resumes its own."""

from __future__ import annotations

import functools
import hashlib
import inspect
from types import CodeType
from typing import Any, NamedTuple

from torch import Tensor, nn

from bnkit.experiments.function_dependencies import references_of
from bnkit.experiments.function_source import is_plain_value, source_code

_PLAIN = (bool, int, float, str, tuple)


class FingerprintedFunction(NamedTuple):
    """A function and its fingerprint, taken where it was defined: another process may lack its source."""

    value: Any
    identity: str

    @classmethod
    def of(cls, value: Any) -> FingerprintedFunction:
        """``value`` with its fingerprint."""
        return cls(value, fingerprint_of(value))


def fingerprint_of(function: object) -> str:
    """The name of a callable and a digest of its code.

    The digest covers its source, the values that it holds, the functions and values of its module that it uses, and the
    user's modules that it imports.

    Raises:
        FactoryError: As ``references_of``.
    """
    whole = function
    held_values: list[object] = []
    while isinstance(function, functools.partial):
        held_values += [*function.args, *function.keywords.items()]
        function = function.func
    held_values += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    held_values += getattr(function, "__defaults__", None) or ()
    is_object = not (inspect.isroutine(function) or inspect.isclass(function))
    kind: Any = type(function) if is_object else function
    if is_object:
        held_values += sorted(getattr(function, "__dict__", {}).items(), key=lambda item: item[0])
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    code = getattr(inspect.unwrap(kind), "__code__", kind)
    source = source_code(code) if isinstance(code, (CodeType, type)) else ""
    # Only plain values: a repr that contains an address differs in every process.
    plain = [value for value in held_values if isinstance(value, _PLAIN) and is_plain_value(value)]
    digest = hashlib.sha256(repr((source, plain)).encode())
    if isinstance(function, nn.Module):  # a loss with class weights
        for key, tensor in function.state_dict().items():
            digest.update(repr((key, tuple(tensor.shape), tensor.dtype)).encode() + _bytes(tensor))
    references = references_of(whole)
    if references:  # without references the fingerprint stays that of earlier versions
        digest.update(repr(references).encode())
    return f"{name}#{digest.hexdigest()[:12]}"


def _bytes(tensor: Tensor) -> bytes:
    return repr(tensor.detach().cpu().flatten().tolist()).encode()
