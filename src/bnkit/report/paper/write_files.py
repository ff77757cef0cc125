"""The summary as text, and its files for a paper. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bnkit.errors import RecordError
from bnkit.experiments.records.overwrite_protection import refuse_foreign_picture
from bnkit.report.answer_text import Answer
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.paper.latex_table import latex
from bnkit.report.paper.matplotlib_figures import COLUMN_WIDTH, save
from bnkit.report.paper.paper_summary import Summary, summary_of
from bnkit.report.paper.plots import DIFFERENCE, plot_of
from bnkit.report.results_of_plan import Results

_TEXTS: dict[str, Callable[[Summary], str]] = {
    "latex": latex,
    "markdown": Summary.to_markdown,
    "csv": Summary.to_csv,
}


def paper_text(results: Results, form: str) -> str:
    """The summary as "latex", "markdown" or "csv"."""
    answer = Answer.of(results)
    return _TEXTS[form](summary_of(results, answer.contrasts, answer.headline))


def write_text(text: str, path: Path) -> None:
    """Write ``text`` to a file.

    Raises:
        RecordError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); expected a file that can: use `out`"
        ) from error


def write_picture(
    results: Results, form: str, figure: str | None, path: Path | None, path_of: Callable[[str], Path] = Path
) -> Path:
    """Write a figure at the width of a column, in the format ``form``, and return the file's path.

    Args:
        results: The runs.
        form: "pdf" or "svg".
        figure: The differences by default; a figure over the epochs shows each network at its best learning rate.
        path: The file, which is replaced; by default one named after the figure, if no other file has that name.
        place: The path of the file with the default name.

    Raises:
        SettingsError: The figure is unknown, ``path`` has another ending, or matplotlib is not installed.
        RecordError: The file cannot be written, or is not given and would replace one that bnkit did not write.
    """
    name = figure or DIFFERENCE
    plot = plot_of(results, contrasts(results), name, {}, at_best=True)
    written = path if path is not None else path_of(f"{name}.{form}")
    if path is None:
        refuse_foreign_picture(written)
    save(plot.draw, written, plot.size(COLUMN_WIDTH), form)
    return written
