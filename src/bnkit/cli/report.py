"""``bnkit report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, launch

from bnkit.cli.output import results
from bnkit.report.comparison import Comparison


def report(
    folder: Annotated[Path, Argument(metavar="DIR", help="A folder that `bnkit compare` wrote.")],
    open_report: Annotated[bool, Option("--open", help="Open it in a browser.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit report results/quickstart` writes report.html and results.csv again from the records, and prints the answer.

    Trains nothing, and needs no more than the records: those of an interrupted comparison will do.
    """
    comparison = Comparison(folder)
    with comparison.folder.writing():
        comparison.folder.write_results(comparison.plan)
        path = comparison.write_report()
    console = results()
    console.print(str(comparison.answer), soft_wrap=not console.is_terminal, markup=False)
    console.print(f"\nreport: {path}", soft_wrap=True)
    if open_report:
        launch(path.resolve().as_uri())
