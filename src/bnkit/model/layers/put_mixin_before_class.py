"""Change the behaviour of an existing module: put a mixin before its class, and keep its attributes.

The module stays the same object, so shared modules stay shared, hooks stay, and parameters keep their names. The
classes are created on demand; copying and pickling rebuild them from their parts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn


def mix_in(module: nn.Module, mixin: type) -> None:
    """Put ``mixin`` before the class of ``module``, unless it is already there."""
    if not isinstance(module, mixin):
        kind: type = type(module)
        module.__class__ = combined(mixin, kind)


def take_out(module: nn.Module, mixin: type) -> None:
    """Remove ``mixin`` from the class of ``module``, at any position among several mixins."""
    module.__class__ = _without(type(module), mixin)


@cache
def combined(mixin: type, base: type) -> type:
    """The class that inherits from ``mixin`` and then ``base``; cached, so that it is always the same object."""
    content = {
        "__reduce_ex__": _reduce,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_parts": (mixin, base),
    }
    return type(base.__name__, (mixin, base), content)


def _without(kind: type, mixin: type) -> type:
    parts: tuple[type, type] | None = vars(kind).get("_parts")
    if parts is None:
        return kind
    first, base = parts
    return _without(base, mixin) if first is mixin else combined(first, _without(base, mixin))


def _reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
    return _rebuild, (_class_parts(type(self)),), self.__getstate__()  # type: ignore[no-untyped-call]


def _class_parts(kind: type) -> Any:
    """A picklable form of a class: the class itself, or (mixin, parts of its base)."""
    parts: tuple[type, type] | None = vars(kind).get("_parts")
    return kind if parts is None else (parts[0], _class_parts(parts[1]))


def _rebuild(parts: Any) -> object:
    kind = _class_of(parts)
    return object.__new__(kind)


def _class_of(parts: Any) -> type:
    if isinstance(parts, tuple):
        return combined(parts[0], _class_of(parts[1]))
    kind: type = parts
    return kind
