"""Durations as people write them."""

from __future__ import annotations

import math
import re

from bnkit.errors import SettingsError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def parse_duration(text: str | float, name: str = "budget") -> float:
    """Seconds, from a number of them or from a text with a unit.

    Args:
        text: Seconds, or a number with s, m or h.
        name: The name of the argument in error messages.

    Raises:
        SettingsError: If ``text`` is neither, or not above 0.

    Examples:
        >>> parse_duration("90s"), parse_duration("1.5h"), parse_duration(20)
        (90.0, 5400.0, 20.0)
    """
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is not None:
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(text, (int, float)) and not isinstance(text, bool):
        seconds = float(text)
    else:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SettingsError(f"{name}={text!r}; expected a duration above 0, as 90s, 10m or 2h")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration in a readable unit, to about two digits.

    Examples:
        >>> format_duration(0.53), format_duration(90), format_duration(2_700), format_duration(9_000)
        ('0.5 s', '90 s', '45 min', '2.5 h')
    """
    if seconds < 10:
        return f"{seconds:.1g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.2g} h"
