"""What stays the same about a user's own code from call to call, so that other code gets runs of its own."""

from __future__ import annotations

import functools
import hashlib
import inspect
from types import CodeType
from typing import Any, NamedTuple

from torch import Tensor, nn

from bnkit.experiments.references import references_of
from bnkit.experiments.source import reads_plain, source_of

_PLAIN = (bool, int, float, str, tuple)


class Identified(NamedTuple):
    """A function that a caller gave, and its identity where it was given: in another process its source may be gone."""

    value: Any
    identity: str

    @classmethod
    def of(cls, value: Any) -> Identified:
        """``value`` with its identity."""
        return cls(value, identity_of(value))


def identity_of(given: object) -> str:
    """The name of ``given``, something to call, and a digest of its code.

    The digest is of its source, of the values that it holds, of the functions and values of its module that it uses, and of
    the modules of the user's own that it imports.

    Raises:
        FactoryError: As ``references_of``.
    """
    whole = given
    held: list[object] = []
    while isinstance(given, functools.partial):
        held += [*given.args, *given.keywords.items()]
        given = given.func
    held += [cell.cell_contents for cell in getattr(given, "__closure__", None) or ()]
    held += getattr(given, "__defaults__", None) or ()
    is_object = not (inspect.isroutine(given) or inspect.isclass(given))
    kind: Any = type(given) if is_object else given
    if is_object:
        held += sorted(getattr(given, "__dict__", {}).items(), key=lambda item: item[0])
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    code = getattr(inspect.unwrap(kind), "__code__", kind)
    source = source_of(code) if isinstance(code, (CodeType, type)) else ""
    # Only plain values read the same in every process; a repr with an address would make each call another run.
    plain = [value for value in held if isinstance(value, _PLAIN) and reads_plain(value)]
    digest = hashlib.sha256(repr((source, plain)).encode())
    if isinstance(given, nn.Module):  # a loss with weights of its classes
        for key, tensor in given.state_dict().items():
            digest.update(repr((key, tuple(tensor.shape), tensor.dtype)).encode() + _bytes(tensor))
    references = references_of(whole)
    if references:  # code that stands alone keeps the identity that it had before these counted
        digest.update(repr(references).encode())
    return f"{name}#{digest.hexdigest()[:12]}"


def _bytes(tensor: Tensor) -> bytes:
    return repr(tensor.detach().cpu().flatten().tolist()).encode()
