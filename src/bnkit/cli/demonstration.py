"""Demonstrations: recipes of ``bnkit compare`` that examine one layer."""

from __future__ import annotations

from typer import Context

from bnkit.console import stdout_console
from bnkit.errors import SettingsError

# The options of a demonstration, which compares no runs and writes no files.
_ALLOWED = {"what", "as_json", "quiet", "verbose"}


def show_demonstration(context: Context, name: str, *, as_json: bool) -> None:
    """Compute and print the tables of a demonstration.

    Raises:
        SettingsError: If the call has options of a comparison.
    """
    from bnkit.demonstrations import DEMONSTRATIONS  # loads torch

    sources = {parameter: context.get_parameter_source(parameter) for parameter in context.params}
    if any(
        source is not None and source.name == "COMMANDLINE" for key, source in sources.items() if key not in _ALLOWED
    ):
        raise SettingsError(
            f"recipe {name} examines one layer and compares no runs; expected only the options --json and -q"
        )
    tables, console = DEMONSTRATIONS[name](), stdout_console()
    if as_json:
        console.print_json(data=[table.to_json() for table in tables])
        return
    for table in tables:
        console.print_table(table)
        console.print()
