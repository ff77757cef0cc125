from __future__ import annotations

import io

from rich.console import Console

from bnkit.terminal_table import as_rich


def _printed(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_nothing_in_a_cell_is_markup():
    assert "[red]x[/red]" in _printed(as_rich(("network", "loss"), [("[red]x[/red]", "0.5")]))


def test_figures_stand_to_the_right_and_words_to_the_left():
    lines = _printed(as_rich(("network", "loss"), [("a", "0.5"), ("longer", "12.25")])).splitlines()
    assert lines[1:] == ["a          0.5", "longer   12.25"]
