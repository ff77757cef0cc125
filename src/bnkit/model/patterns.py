"""Choosing modules by their dotted names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from bnkit.errors import SettingsError

Patterns = str | Sequence[str]


def chosen(names: Iterable[str], include: Patterns | None, exclude: Patterns | None) -> list[str]:
    """Those of ``names`` that match one of ``include`` (all, for None) and none of ``exclude``, in their order.

    A pattern is a dotted name with the wildcards of a shell: ``layer1.*`` matches everything below ``layer1``.

    Raises:
        SettingsError: A pattern of ``include`` or ``exclude`` matches none of the names.

    Example:
        >>> chosen(["stem.conv", "layer1.0.conv", "head"], include=None, exclude="layer1.*")
        ['stem.conv', 'head']
    """
    names = list(names)
    wanted, unwanted = _patterns(include), _patterns(exclude)
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


def _patterns(given: Patterns | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, str) else tuple(given)
