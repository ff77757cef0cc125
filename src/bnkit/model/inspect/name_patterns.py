"""Choosing modules by their dotted names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from bnkit.errors import SettingsError

Patterns = str | Sequence[str]


def matching(names: Iterable[str], include: Patterns | None, exclude: Patterns | None) -> list[str]:
    """Those of ``names`` that match one of ``include`` (all, for None) and none of ``exclude``, in their order.

    A pattern is a dotted name with the wildcards of a shell: ``layer1.*`` matches everything below ``layer1``.

    Raises:
        SettingsError: A pattern of ``include`` or ``exclude`` matches none of the names, or is not a text.

    Examples:
        >>> matching(["stem.conv", "layer1.0.conv", "head"], include=None, exclude="layer1.*")
        ['stem.conv', 'head']
    """
    names = list(names)
    wanted, unwanted = _patterns("include", include), _patterns("exclude", exclude)
    for pattern in (*(wanted or ()), *(unwanted or ())):
        if not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise SettingsError(f"no place matches {pattern!r}; expected a pattern for one of {known or 'none'}")
    return [
        name
        for name in names
        if (wanted is None or any(fnmatchcase(name, pattern) for pattern in wanted))
        and not any(fnmatchcase(name, pattern) for pattern in unwanted or ())
    ]


def _patterns(name: str, argument: Any) -> tuple[str, ...] | None:
    if argument is None or isinstance(argument, str):
        return None if argument is None else (argument,)
    patterns = (
        tuple(argument)
        if isinstance(argument, Iterable) and not isinstance(argument, (bytes, Mapping))
        else (argument,)
    )
    for pattern in patterns:
        if not isinstance(pattern, str):
            verb = "is" if pattern is argument else "holds"
            raise SettingsError(
                f"{name}={argument!r} {verb} a {type(pattern).__name__}; expected dotted names of layers, as 'layer1.*', or a list "
                "of them"
            )
    return patterns
