"""One HTML page about a comparison, complete in itself: it needs no network. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined

from bnkit.experiments.plan import Plan
from bnkit.experiments.records import Record
from bnkit.report.answer import Answer
from bnkit.report.figures import figures
from bnkit.report.tables import further_tables, runs_table

# More rows than this make a page that nobody scrolls through; results.csv has them all.
_MOST_ROWS = 500


def page(plan: Plan, records: Mapping[str, Record]) -> str:
    """The report as HTML: the answer, the pictures, the tables, and where it all comes from."""
    answer = Answer.of(plan, records)
    drawn = figures(plan, records)
    script, divisions = components(drawn)
    environment = Environment(
        loader=PackageLoader("bnkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        name=plan.experiment.name,
        about=plan.experiment.about,
        paragraphs=list(answer.paragraphs()),
        figures=divisions,
        script=script,
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        style=resources.files("bnkit.report").joinpath("page.css").read_text(encoding="utf-8"),
        tables=_tables(plan, records),
        facts=_facts(plan, records),
        experiment=plan.experiment.to_toml(),
    )


def _tables(plan: Plan, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    shown = {"All runs, best first": runs_table(plan, records), **further_tables(plan, records)}
    return [
        {"title": title, "header": header, "rows": rows[:_MOST_ROWS], "left_out": max(0, len(rows) - _MOST_ROWS)}
        for title, (header, rows) in shown.items()
    ]


def _facts(plan: Plan, records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """What the runs were trained with; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in plan:
        for key, value in records.get(run.run_id, Record()).environment.items():
            if key != "time":
                text = value if isinstance(value, str) else json.dumps(value)
                found.setdefault(key.replace("_", " "), {})[text] = None
    return [(key, "; ".join(values)) for key, values in found.items()]
