"""``bnkit recipes``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from bnkit.console import stdout_console
from bnkit.text_table import Column, Table


def recipes(
    as_json: Annotated[bool, Option("--json", help="Print the list as JSON.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit recipes` lists the built-in comparisons and the question of each; `bnkit compare NAME` runs one."""
    from bnkit.experiments.experiment import describe_recipes

    console, described = stdout_console(), describe_recipes()
    if as_json:
        console.print_json(data=[{"name": name, "about": about} for name, about in described.items()])
    else:
        console.print_table(Table(("recipe", Column.of_sentences("what it asks")), list(described.items())))
