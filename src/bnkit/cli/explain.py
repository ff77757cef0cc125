"""``bnkit explain``."""

from __future__ import annotations

from typing import Annotated

from rich.markdown import Markdown
from typer import Argument, Option

from bnkit.cli.model_command import Debug
from bnkit.console import stdout_console


def explain(
    rule: Annotated[
        str | None, Argument(metavar="[RULE]", help="A code, as BN101, or a name. Without: a list of all rules.")
    ] = None,
    plain: Annotated[bool, Option("--plain", help="The Markdown as it is written.")] = False,
    debug: Debug = False,
) -> None:
    """`bnkit explain BN101` says what a rule of `bnkit check` is about: why it matters, what is measured, the remedy.

    `bnkit explain` lists all rules.
    """
    from bnkit.checks.rule_registry import find_rule, page, rules
    from bnkit.table import Column, Table

    console = stdout_console()
    if rule is None:
        columns = ("code", "name", Column("severity", 2), Column.of_sentences("what it finds"))
        console.print_table(Table(columns, [(r.code, r.name, r.severity.value, r.summary) for r in rules()]))
        return
    text = page(find_rule(rule).code)
    if plain or not console.is_terminal:
        console.print(text, soft_wrap=True, markup=False, emoji=False, end="")
    else:
        console.print(Markdown(text))
