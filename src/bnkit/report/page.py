"""One HTML page about a comparison, complete in itself: it needs no network. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bnkit.experiments.measure import Measure
from bnkit.experiments.plan import Plan
from bnkit.experiments.records import Record
from bnkit.report.answer import Answer
from bnkit.report.charts import charts
from bnkit.report.figures import colour_of
from bnkit.report.series import ends, labels, series
from bnkit.report.tables import further_tables, runs_table

# More rows than this make a page that nobody scrolls through; results.csv has them all.
_MOST_ROWS = 500
# Columns of words, which stand to the left.
_WORDS = ("network", "status", "gamma", "beta", "layer", "line", "device", "trainset")


def page(plan: Plan, records: Mapping[str, Record]) -> str:
    """The report as HTML: the answer, the figures with their switches, the tables, and how it was run."""
    answer = Answer.of(plan, records)
    drawn = charts(plan, records, answer.contrasts)
    script, divisions = components(drawn)
    data = series(plan, records, answer.contrasts)
    environment = Environment(
        loader=PackageLoader("bnkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        name=plan.experiment.name,
        about=plan.experiment.about,
        headline=answer.headline,
        paragraphs=list(answer.paragraphs()),
        figures=divisions,
        captions=_captions(plan, records, Measure.of(plan.task)),
        networks=[(network, colour_of(plan, network)) for network in plan.networks],
        points=labels(plan),
        first=data["first"],
        groups=list(data["rates"]),
        inside=[entry["label"] for entry in data["inside"]],
        ends=ends(plan, records),
        has_population=any(value is not None for run in data["runs"] for value in run["population"]),
        has_steps=all(None not in run["step"] for run in data["runs"]),
        data=_embedded(data),
        script=script,
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        style=_file("page.css"),
        code=_file("page.js"),
        tables=_tables(plan, records),
        words=_WORDS,
        facts=_facts(plan, records),
        experiment=plan.experiment.to_toml(),
    )


def _file(name: str) -> str:
    return resources.files("bnkit.report").joinpath(name).read_text(encoding="utf-8")


def _embedded(data: object) -> Markup:
    """JSON that cannot end the script that holds it, whatever somebody called a network."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _captions(plan: Plan, records: Mapping[str, Record], measure: Measure) -> dict[str, tuple[str, str]]:
    """Of each figure its title, and what is in it in words."""
    seeds = len(plan.experiment.seeds)
    band = f"The line is the mean over {seeds} seeds, the band reaches from the lowest to the highest."
    name = measure.name
    return {
        "headline": (f"Test {name}", f"{band} Batch norm predicts by its moving average."),
        "forest": (
            f"Test {name}, with minus without",
            f"Mean differences in test {name} over pairs of runs with the same seed, and their 95 % intervals.",
        ),
        "loss": ("Training loss", f"Over the batches of each epoch, as the weights moved. {band}"),
        "training": (f"Training {name}", f"Over the batches of each epoch, as the weights moved. {band}"),
        "test": (f"Test {name}, moving average", f"On the test set, batch norm by its moving average. {band}"),
        "population": (
            f"Test {name}, population statistics",
            f"The same weights, batch norm by the statistics of the whole training part. {band}",
        ),
        "rates": (
            f"Test {name} over the learning rate",
            "Means over the runs that finished, with 95 % intervals; a cross at the bottom marks rates at which runs diverged.",
        ),
        "time": (
            "Time",
            "Seconds of training for an epoch, evaluation left out: the mean over the runs of their medians.",
        ),
        "memory": ("Memory", "What one training batch keeps for its backward pass, parameters left out."),
        "peak_memory": (
            "GPU memory",
            "The most that tensors took on the GPU while a run trained, those of the data included: the mean over the runs.",
        ),
        "input": (
            "Into the layer",
            "Median, middle half and 5th to 95th percentile of all values in a training batch.",
        ),
        "output": ("Out of the layer", "The same behind the batch norm."),
        "gamma": ("γ", "Over the channels."),
        "beta": ("β", "Over the channels."),
        "layers": ("All layers", "One figure of every layer over the steps that were looked at."),
    }


def _tables(plan: Plan, records: Mapping[str, Record]) -> list[dict[str, Any]]:
    shown = {"All runs, best first": runs_table(plan, records), **further_tables(plan, records)}
    return [
        {"title": title, "header": header, "rows": rows[:_MOST_ROWS], "left_out": max(0, len(rows) - _MOST_ROWS)}
        for title, (header, rows) in shown.items()
    ]


def _facts(plan: Plan, records: Mapping[str, Record]) -> Sequence[tuple[str, str]]:
    """What the runs were trained with; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in plan:
        for key, value in records.get(run.run_id, Record()).environment.items():
            if key != "time":
                text = value if isinstance(value, str) else json.dumps(value)
                found.setdefault(key.replace("_", " "), {})[text] = None
    return [(key, "; ".join(values)) for key, values in found.items()]
