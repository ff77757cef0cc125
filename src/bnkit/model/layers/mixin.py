"""Giving a module that exists another behaviour: its class gets a mixin in front, everything it holds stays its own.

The module keeps its identity, so that a shared one stays shared, hooks stay, and its parameters keep their names. Such
classes are made when they are needed, so copying and pickling rebuild them from their parts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn


def mix_in(module: nn.Module, mixin: type) -> None:
    """Put ``mixin`` before the class of ``module``; nothing if it is there already."""
    if not isinstance(module, mixin):
        kind: type = type(module)
        module.__class__ = combined(mixin, kind)


def take_out(module: nn.Module, mixin: type) -> None:
    """Take ``mixin`` out of the class of ``module`` again, wherever it stands among several."""
    module.__class__ = _without(type(module), mixin)


@cache
def combined(mixin: type, base: type) -> type:
    """The class that is a ``mixin`` first and then a ``base``; the same object for the same two."""
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
    return _rebuild, (_recipe(type(self)),), self.__getstate__()  # type: ignore[no-untyped-call]


def _recipe(kind: type) -> Any:
    """A class as pickle can name it: itself, or (mixin, recipe of its base)."""
    parts: tuple[type, type] | None = vars(kind).get("_parts")
    return kind if parts is None else (parts[0], _recipe(parts[1]))


def _rebuild(recipe: Any) -> object:
    kind = _class_of(recipe)
    return object.__new__(kind)


def _class_of(recipe: Any) -> type:
    if isinstance(recipe, tuple):
        return combined(recipe[0], _class_of(recipe[1]))
    kind: type = recipe
    return kind
