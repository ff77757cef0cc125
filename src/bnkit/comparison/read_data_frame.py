"""Reads a table of runs (pandas) into runs that can be compared, and reports the rows left out. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from bnkit.comparison.frame_columns import Columns, check_columns, check_kinds, finite_number, plain_value
from bnkit.comparison.table_comparison import RunTable, Setting, TableRun, first_baseline
from bnkit.errors import SettingsError
from bnkit.message_parts import not_installed, plural, unknown_name
from bnkit.report.objective_metric import ColumnObjective

if TYPE_CHECKING:
    from pandas import DataFrame

# The last word in the name of a column of accuracies: "test_accuracy", "val/acc".
_ACCURACY = re.compile(r"(^|[^a-z])acc(uracy)?$", re.IGNORECASE)
_NAMED = 5


def run_table(
    frame: Any, columns: Columns, *, baseline: object = None, minimize: Any = False, examples: Any = None
) -> RunTable:
    """The runs in ``frame``, one for each row.

    Args:
        frame: A pandas data frame, or a table that has ``to_pandas``.
        columns: Its columns by their role.
        baseline: As ``Comparison.from_frame``.
        minimize: Whether lower is better.
        examples: The number of test examples of an accuracy.

    Raises:
        SettingsError: ``frame`` is not a table, lacks a column, has invalid values, or has fewer than two networks.
    """
    table = _data_frame(frame)
    check_columns(table, columns)
    runs, notes = _runs(table, columns)
    networks = tuple(dict.fromkeys(run.network for run in runs))
    if len(networks) < 2:
        dropped = f" {' '.join(notes)}" if notes else ""
        raise SettingsError(
            f"column {columns.network!r} has {plural(len(networks), 'network')}"
            f"{f', {networks[0]}' if networks else ''}; expected at least two to compare.{dropped}"
        )
    values = [run.value for run in runs if run.value is not None]
    objective, about_examples = _objective(columns.metric, values, examples, minimize=minimize)
    chosen = _baseline(networks, columns.network, baseline)
    return RunTable(objective, columns.settings, tuple(runs), chosen, examples, (*notes, *about_examples))


def _data_frame(frame: Any) -> DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise SettingsError(not_installed("a table of runs", "pandas", "frame")) from error
    if not isinstance(frame, pandas.DataFrame) and callable(getattr(frame, "to_pandas", None)):
        frame = frame.to_pandas()
    if not isinstance(frame, pandas.DataFrame):
        raise SettingsError(
            f"the table is a {type(frame).__name__}; expected a pandas.DataFrame with a row for each run: pandas.read_csv(file), "
            "or pandas.DataFrame(rows)"
        )
    return frame


def _runs(table: DataFrame, columns: Columns) -> tuple[list[TableRun], list[str]]:
    """A run for each network, seed and setting with one figure, and notes about the rows left out."""
    notes: list[str] = []
    rows: dict[tuple[str, Hashable, Setting], list[float | None]] = {}
    places: dict[tuple[str, Hashable, Setting], list[int]] = {}
    nameless = 0
    for index, (network, seed, metric, *settings) in enumerate(
        table[list(columns.every)].itertuples(index=False, name=None)
    ):
        key = plain_value(columns.network, network), plain_value(columns.seed, seed)
        if key[0] is None or key[1] is None:
            nameless += 1
            continue
        setting = tuple(map(plain_value, columns.settings, settings))
        identity = _network_name(columns.network, key[0]), key[1], setting
        rows.setdefault(identity, []).append(finite_number(columns.metric, metric))
        places.setdefault(identity, []).append(index)
    check_kinds(columns.seed, (seed for _, seed, _ in rows))
    for number, column in enumerate(columns.settings):
        check_kinds(column, (setting[number] for _, _, setting in rows))
    total = plural(len(table), "row")
    if nameless:
        notes.append(f"Left out: {nameless:,} of {total}, without a {columns.network} or a {columns.seed}.")
    several = {identity: values for identity, values in rows.items() if len(values) > 1}
    unclear = {identity for identity, values in several.items() if len(set(values)) > 1}
    repeated = sum(len(values) - 1 for identity, values in several.items() if identity not in unclear)
    if repeated:
        notes.append(f"Left out: {repeated:,} of {total}, which repeat another with the same {columns.metric}.")
    runs = [TableRun(*identity, values[0]) for identity, values in rows.items() if identity not in unclear]
    if unclear:
        what = _about_unclear(table, columns, {identity: places[identity] for identity in rows if identity in unclear})
        if not runs:
            raise SettingsError(what)
        notes.append(f"Left out: {sum(len(rows[each]) for each in unclear):,} of {total}. {what}.")
    return runs, notes


def _about_unclear(table: DataFrame, columns: Columns, places: dict[tuple[str, Hashable, Setting], list[int]]) -> str:
    """The message that a run has several rows, with the columns that distinguish them: usually a setting or the epoch."""
    (network, seed, setting), of_first = next(iter(places.items()))
    rows = table.iloc[of_first]
    others = [name for name in table.columns if name not in columns.every]
    differing = [str(name) for name in others if len({repr(value) for value in rows[name]}) > 1]
    where = "".join(f", {key} {value}" for key, value in zip(columns.settings, setting, strict=True))
    remedy = (
        f"they differ in {', '.join(differing[:_NAMED])}: name what is a setting in settings=[...], or keep one row for each run"
        if differing
        else "keep one row for each run"
    )
    return (
        f"{plural(len(places), 'run')} with several rows that have different {columns.metric} ({network}, seed {seed}{where}: "
        f"{len(of_first)} rows); {remedy}"
    )


def _objective(
    metric: str, values: Sequence[float], examples: Any, *, minimize: Any
) -> tuple[ColumnObjective, tuple[str, ...]]:
    """The measure that the runs are judged by, and notes about it."""
    if not isinstance(minimize, bool):
        raise SettingsError(f"minimize={minimize!r}; expected True or False")
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, Integral) or examples < 1):
        raise SettingsError(f"examples={examples!r}; expected how many test examples the accuracy counts, from 1")
    is_share = all(0 <= value <= 1 for value in values)
    if examples is not None and (not is_share or minimize):
        ends = f" goes from {min(values):g} to {max(values):g}" if values else " has no values"
        raise SettingsError(
            f"examples={examples} is for an accuracy, a share from 0 to 1 of which more is better; {metric!r}"
            f"{' is minimized' if minimize else ends}: {'leave examples out' if minimize else 'divide percents by 100'}"
        )
    is_accuracy = examples is not None or (is_share and not minimize and _ACCURACY.search(metric) is not None)
    notes: tuple[str, ...] = ()
    if is_accuracy and examples is None:
        notes = (
            (
                f"How many test examples {metric} counts is not known: with examples=N, no interval is narrower than counting on N "
                "examples allows."
            ),
        )
    return ColumnObjective(metric, minimize, is_accuracy), notes


def _baseline(networks: Sequence[str], column: str, wanted: object) -> str:
    if wanted is None:
        false = _network_name(column, value=False)
        return false if false in networks else first_baseline(networks)
    name = _network_name(column, wanted)
    if name not in networks:
        raise SettingsError(unknown_name("baseline: no network is called", name, networks))
    return name


def _network_name(column: str, value: object) -> str:
    """A network's name: the text itself, or the column with its value, as in ``batch_norm=True``."""
    return value if isinstance(value, str) else f"{column}={value}"
