"""A comparison as the output of a notebook's cell. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bnkit.notebook_html import bullets, folded, output, paragraph, pictures, wide
from bnkit.report.answer_text import Answer
from bnkit.report.charts.curves import curves
from bnkit.report.charts.series import headline_points, headline_runs
from bnkit.report.notebook.inline_svg import curves_svg, differences_svg
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import difference_rows
from bnkit.report.paper.paper_summary import Summary
from bnkit.report.results_of_plan import Results

# More rows would push the answer off the screen.
_MOST_ROWS = 24


def comparison_html(answer: Answer, summary: Summary, networks: Sequence[str], drawn: Sequence[Markup] = ()) -> str:
    """The verdict, the pictures, the table, and the whole answer in a fold.

    Args:
        answer: The answer.
        summary: A row for each network and setting.
        networks: All networks, in the order of their colours.
        drawn: Pictures to show before the differences.
    """
    rows = difference_rows(answer.contrasts)
    differences = differences_svg(rows, networks, summary.objective)
    table = summary.table()
    shown = table.first(_MOST_ROWS, "summary() has them")
    note = shown.note if len(table.rows) <= _MOST_ROWS else f"{shown.note}. {table.note}"
    return output(
        paragraph(answer.headline, "headline"),
        *(paragraph(text, "note") for text in answer.notes),
        pictures([drawing for drawing in (*drawn, differences) if drawing]),
        wide(shown, "figures"),
        paragraph(note, "note"),
        folded("the whole answer", *(bullets(heading, texts) for heading, texts in answer.paragraphs())),
    )


def curves_picture(results: Results, answer: Answer) -> Markup:
    """The first picture of the report: the test measure of each network at its best learning rate."""
    objective = Objective.of(results.plan.task)
    where = set(headline_points(results.plan, answer.contrasts).values())
    at = f", {where.pop()}" if len(where) == 1 else ", each at its best"
    series = curves(results, f"test_{objective.field}", headline_runs(results.plan, answer.contrasts))
    return curves_svg(series, f"{objective.title}{at}", is_share=objective.is_accuracy)
