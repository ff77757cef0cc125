"""``--grid``, and the options that abbreviate one of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnkit.errors import SettingsError


def grid_from(pairs: Sequence[str], short: Mapping[str, object]) -> dict[str, list[Any]]:
    """The values of each key of ``--grid``, and of the options that abbreviate one of its keys.

    Raises:
        SettingsError: If an entry is not a pair, or a key is given twice: one of them would be silently ignored.
    """
    by_key: dict[str, list[Any]] = {}
    for key, values in map(_parse, pairs):
        if key in by_key:
            raise SettingsError(f"--grid gives {key} twice; expected all its values at once, as in --grid {key}=V1,V2")
        by_key[key] = values
    for key, value in short.items():
        option = _option(key)
        if value is not None and key in by_key:
            raise SettingsError(
                f"{option} {value} and --grid {key}=…; expected one of them: {option} is short for the other"
            )
        if value is not None:
            by_key[key] = [value]
    return by_key


def option_names(changes: Mapping[str, Any], short: Mapping[str, object]) -> dict[str, str]:
    """The option that each key of an experiment comes from, given the keys that options change.

    Examples:
        >>> option_names({"grid": {"lr": ["abc"], "batch_size": [0]}, "epochs": 0}, {"batch_size": 0})
        {'grid.lr': '--grid lr', 'grid.batch_size': '--batch-size', 'epochs': '--epochs'}
    """
    named = {
        f"grid.{key}": _option(key) if short.get(key) is not None else f"--grid {key}"
        for key in changes.get("grid", ())
    }
    options = {"networks": "--network"}
    return named | {key: options.get(key, _option(key)) for key in changes if key != "grid"}


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _parse(pair: str) -> tuple[str, list[Any]]:
    """``lr=0.1,1`` as a key and its values; the experiment checks whether they suit the key."""
    key, equals, values = pair.partition("=")
    if not equals or not key or not values:
        raise SettingsError(f"--grid {pair}: expected KEY=V1,V2, as in --grid lr=0.1,0.3")
    return key, [_value(text.strip()) for text in values.split(",")]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
