"""The columns of a table of runs (pandas) by their role, and their values as plain Python objects. Needs no torch."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from bnkit.errors import SettingsError
from bnkit.message_parts import did_you_mean
from bnkit.report.paper.paper_summary import AFTER_SETTINGS, NETWORK

if TYPE_CHECKING:
    from pandas import DataFrame

# How W&B writes figures that are not finite, in the summaries that its API returns.
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
# What MLflow's databases hold for an infinite figure: the largest number.
_INFINITY_OF_MLFLOW = sys.float_info.max
# The square of a larger figure has no double.
_LARGEST = 1e150
_MOST_COLUMNS = 20


@dataclass(frozen=True)
class Columns:
    """The columns of a table by their role.

    Attributes:
        network: The network's name.
        seed: The seed, by which runs of two networks are paired.
        metric: The figure by which runs are judged.
        settings: The settings, which have to agree within a pair.
    """

    network: str
    seed: str
    metric: str
    settings: tuple[str, ...] = ()

    @classmethod
    def named(cls, network: Any, seed: Any, metric: Any, settings: Any) -> Columns:
        """The columns with these names; ``settings`` is a name or several.

        Raises:
            SettingsError: A name is not text.
        """
        keys = (settings,) if isinstance(settings, str) else tuple(settings) if isinstance(settings, Iterable) else None
        if keys is None or not all(isinstance(key, str) for key in keys):
            raise SettingsError(f"settings={settings!r}; expected the names of columns, such as ['lr', 'batch_size']")
        for role, name in {"network": network, "seed": seed, "metric": metric}.items():
            if not isinstance(name, str):
                raise SettingsError(f"{role}={name!r}; expected the name of one column, as text")
        return cls(network, seed, metric, keys)

    @property
    def every(self) -> tuple[str, ...]:
        """All columns."""
        return (self.network, self.seed, self.metric, *self.settings)


def check_columns(table: DataFrame, columns: Columns) -> None:
    """Make sure that ``table`` has each of ``columns`` once, and that each has one role.

    Raises:
        SettingsError: That is not so.
    """
    if table.columns.nlevels > 1:
        raise SettingsError(
            f"the columns of the table have names of {table.columns.nlevels} levels, such as {table.columns[-1]!r}; expected one: "
            "df.columns = ['.'.join(map(str, names)).strip('.') for names in df.columns]"
        )
    for column in columns.every:
        if column not in table.columns:
            raise SettingsError(f"the table has no column {column!r}{_where_it_may_be(table, column)}")
        if (table.columns == column).sum() > 1:
            raise SettingsError(f"the table has several columns {column!r}; expected one: rename the others")
    twice = [name for name, count in Counter(columns.every).items() if count > 1]
    if twice:
        raise SettingsError(
            f"column {twice[0]!r} is given twice; expected one column each for network, seed and metric, and others as settings"
        )
    reserved = [key for key in columns.settings if key in (NETWORK, *AFTER_SETTINGS)]
    if reserved:
        raise SettingsError(
            f"the setting {reserved[0]!r} has the name of a column of the summary; rename it: df.rename(columns={{...}})"
        )


def _where_it_may_be(table: DataFrame, name: str) -> str:
    """What to do about the column ``name``, which the table lacks."""
    if name in table.index.names:
        return ": the index has this name; make it a column with df.reset_index()"
    if any(str(column) == name for column in table.columns if not isinstance(column, str)):
        return ": its column of this name is named by a number; make the names text with df.rename(columns=str)"
    if table.columns.empty:
        return ": it has none; expected a row for each run, and columns for network, seed and metric"
    known = [str(column) for column in table.columns]
    more = f" and {len(known) - _MOST_COLUMNS:,} more" if len(known) > _MOST_COLUMNS else ""
    return f"; it has {', '.join(known[:_MOST_COLUMNS])}{more}{did_you_mean(name, known)}"


def check_kinds(column: str, values: Iterable[Hashable]) -> None:
    """Refuse a column that holds one value both as a number and as text, which would not be paired.

    Raises:
        SettingsError: It holds, for example, 0 and "0".
    """
    by_text: dict[str, Hashable] = {}
    for value in values:
        if value is not None and type(other := by_text.setdefault(str(value), value)) is not type(value):
            raise SettingsError(
                f"column {column!r} holds both {other!r} and {value!r}, which do not pair; give them one type: "
                f"df[{column!r}].astype(str)"
            )


def plain_value(column: str, value: Any) -> Hashable:
    """A value as a plain Python object; None for a missing value.

    Raises:
        SettingsError: The value is not a hashable scalar.
    """
    import pandas

    if not isinstance(value, Hashable) or not pandas.api.types.is_scalar(value):
        raise SettingsError(
            f"column {column!r} holds a {type(value).__name__}; expected numbers or text: df[{column!r}].astype(str)"
        )
    if pandas.isna(value):
        return None
    plain: Hashable = value.item() if hasattr(value, "item") else value
    # A column with gaps stores whole numbers as floats.
    return int(plain) if isinstance(plain, float) and plain.is_integer() and abs(plain) < 2**53 else plain


def finite_number(column: str, value: Any) -> float | None:
    """A finite number, or None.

    Raises:
        SettingsError: The value is not a number.
    """
    import pandas

    if value is None or value is pandas.NA or (isinstance(value, str) and value in _NOT_FINITE):
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SettingsError(
            f"column {column!r} holds {value!r}, a {type(value).__name__}; expected numbers{_as_numbers(column, value)}"
        )
    plain = float(value)
    if not math.isfinite(plain) or abs(plain) >= _INFINITY_OF_MLFLOW:
        return None
    if abs(plain) > _LARGEST:
        raise SettingsError(f"column {column!r} holds {plain:g}; expected figures of at most {_LARGEST:g}, or inf")
    return plain


def _as_numbers(column: str, value: Any) -> str:
    """How to convert a column of ``value`` to numbers; empty if that is not possible."""
    try:
        float(value)
    except (TypeError, ValueError):
        return ""
    return f": df[{column!r}].astype(float)"
