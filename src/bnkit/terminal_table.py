"""Rows of text as a table for a terminal. Loads no more than Rich's tables, so that no command waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

Row = tuple[str, ...]


def as_rich(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table for a terminal: figures to the right, words to the left."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        right = all(_looks_like_a_number(row[index]) for row in rows)
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _looks_like_a_number(text: str) -> bool:
    return text in ("–", "…") or text.replace(",", "").replace(".", "").replace("e-", "").replace("−", "").isdigit()
