"""Recipes that look at one layer, as ``bnkit compare`` shows them."""

from __future__ import annotations

from dataclasses import asdict

from typer import Context

from bnkit.console import stdout_console
from bnkit.errors import SettingsError
from bnkit.terminal_table import as_rich

# What may be given beside the recipe's name: nothing is compared, and nothing written.
_ALLOWED = {"what", "as_json", "quiet", "verbose"}


def show_demonstration(context: Context, name: str, *, as_json: bool) -> None:
    """Compute and print the tables of a demonstration.

    Raises:
        SettingsError: The call has options of a comparison.
    """
    from bnkit.demonstrations import DEMONSTRATIONS  # loads torch

    sources = {parameter: context.get_parameter_source(parameter) for parameter in context.params}
    if any(
        source is not None and source.name == "COMMANDLINE" for key, source in sources.items() if key not in _ALLOWED
    ):
        raise SettingsError(
            f"recipe {name} looks at one layer and compares no runs; expected no option but --json and -q"
        )
    tables, console = DEMONSTRATIONS[name](), stdout_console()
    if as_json:
        console.print_json(data=[asdict(table) for table in tables])
        return
    for table in tables:
        console.print(as_rich(table.header, table.rows, table.title))
        console.print(f"{table.note}\n", soft_wrap=not console.is_terminal, markup=False)
