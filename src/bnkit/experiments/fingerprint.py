"""What stays the same about a user's own code from call to call, so that other code gets runs of its own."""

from __future__ import annotations

import functools
import hashlib
import inspect
from types import CodeType
from typing import Any, NamedTuple

from torch import Tensor, nn

from bnkit.experiments.references import references_of
from bnkit.experiments.source import is_plain_value, source_code

_PLAIN = (bool, int, float, str, tuple)


class FingerprintedFunction(NamedTuple):
    """A function that a caller gave, and its identity where it was given: in another process its source may be gone."""

    value: Any
    identity: str

    @classmethod
    def of(cls, value: Any) -> FingerprintedFunction:
        """``value`` with its identity."""
        return cls(value, fingerprint_of(value))


def fingerprint_of(function: object) -> str:
    """The name of ``function``, something to call, and a digest of its code.

    The digest is of its source, of the values that it holds, of the functions and values of its module that it uses, and of
    the modules of the user's own that it imports.

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
    # Only plain values read the same in every process; a repr with an address would make each call another run.
    plain = [value for value in held_values if isinstance(value, _PLAIN) and is_plain_value(value)]
    digest = hashlib.sha256(repr((source, plain)).encode())
    if isinstance(function, nn.Module):  # a loss with weights of its classes
        for key, tensor in function.state_dict().items():
            digest.update(repr((key, tuple(tensor.shape), tensor.dtype)).encode() + _bytes(tensor))
    references = references_of(whole)
    if references:  # code that stands alone keeps the identity that it had before these counted
        digest.update(repr(references).encode())
    return f"{name}#{digest.hexdigest()[:12]}"


def _bytes(tensor: Tensor) -> bytes:
    return repr(tensor.detach().cpu().flatten().tolist()).encode()
