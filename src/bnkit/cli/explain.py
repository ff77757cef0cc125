"""``bnkit explain``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from bnkit.cli.model_command import Debug
from bnkit.console import stdout_console


def explain(
    rule: Annotated[
        str | None,
        Argument(metavar="[RULE]", help="A code, such as BN101, or a name. By default, all rules are listed."),
    ] = None,
    plain: Annotated[bool, Option("--plain", help="Print the raw Markdown.")] = False,
    debug: Debug = False,
) -> None:
    """`bnkit explain BN101` explains a rule of `bnkit check`: why it matters, what is measured, the remedy.

    `bnkit explain` lists all rules.
    """
    from bnkit.checks.rule_pages import find_page, rule_pages
    from bnkit.text_table import Column, Table

    console = stdout_console()
    if rule is None:
        columns = ("code", "name", Column("severity", 2), Column.of_sentences("what it finds"))
        console.print_table(Table(columns, [(p.code, p.name, p.severity, p.summary) for p in rule_pages()]))
        return
    text = find_page(rule).text
    if plain or not console.is_terminal:
        console.print(text, soft_wrap=True, markup=False, emoji=False, end="")
    else:
        from rich.markdown import Markdown

        console.print(Markdown(text))
