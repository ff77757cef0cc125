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

from bnkit.experiments.plan import Plan
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.message_parts import plural
from bnkit.report.answer_text import Answer
from bnkit.report.charts.bokeh_figures import colour_of
from bnkit.report.charts.interval_by_seeds_chart import describe_decisions
from bnkit.report.charts.page_charts import charts
from bnkit.report.charts.series import final_values, headline_points, point_labels, series
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.contrasts.pairs_table import pairs_table
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.tables import further_tables, runs_table
from bnkit.strict_json import dumps, strict

# More rows than this would make the page too long to read; results.csv has them all.
_MAX_ROWS = 500
# The figures that can show the seeds as a band or as single lines.
_BANDS = ("headline", "loss", "training", "test", "population")


def page(results: Results, experiments: Mapping[str, str] | None = None) -> str:
    """The report as HTML: the answer, the figures with their switches, the tables, and how it was run.

    Args:
        results: The runs and their records.
        experiments: The experiments of several folders, in TOML; None for the single folder of ``results``.
    """
    answer = Answer.of(results)
    drawn = charts(results, answer.contrasts)
    script, divisions = components(drawn)
    data = series(results, answer.contrasts)
    environment = Environment(
        loader=PackageLoader("bnkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        name=results.plan.experiment.name,
        about=results.plan.experiment.about,
        headline=answer.headline,
        notes=answer.notes,
        paragraphs=list(answer.paragraphs()),
        figures=divisions,
        captions=_captions(results.plan, answer.contrasts, Objective.of(results.plan.task)) | _looks_caption(results),
        bands=_BANDS,
        band=_band(results.plan),
        networks=[(network, colour_of(results.plan, network)) for network in results.plan.networks],
        legends=_legends(results.plan, data["runs"]) | _looks_legend(results),
        point_labels=point_labels(results.plan),
        first=data["first"],
        groups=list(data["rates"]),
        inside=[entry["label"] for entry in data["inside"]],
        final_values=final_values(results),
        has_steps=all(None not in run["step"] for run in data["runs"]),
        data=_json_for_script(data),
        script=script,
        bokeh="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        style=_file("page.css"),
        code=_file("page.js"),
        tables=_tables(results, answer.contrasts),
        facts=_environment(results),
        experiments=experiments or {results.plan.experiment.name: results.plan.experiment.to_toml()},
    )


def _file(name: str) -> str:
    return resources.files("bnkit.report").joinpath(name).read_text(encoding="utf-8")


def _json_for_script(data: object) -> Markup:
    """JSON with <, > and & escaped, so that no network's name can end the script element around it."""
    text = json.dumps(strict(data), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def _legends(plan: Plan, runs: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """The networks that each figure draws, with their colours."""
    every = [(network, colour_of(plan, network)) for network in plan.networks]
    with_norm = {run["network"] for run in runs if any(value is not None for value in run["population"])}
    return {
        **dict.fromkeys(("headline", "loss", "training", "test", "rates"), every),
        "population": [entry for index, entry in enumerate(every) if index in with_norm],
    }


def _band(plan: Plan) -> str:
    seeds = plural(len(plan.seeds), "seed")
    return f"The line is the mean over {seeds}, the band reaches from the lowest to the highest."


def _captions(plan: Plan, contrasts: Sequence[Contrast], objective: Objective) -> dict[str, tuple[str, str]]:
    """The title and the caption of each figure."""
    name = objective.name
    points = headline_points(plan, contrasts)
    if len(set(points.values())) == 1:
        where = f"At {next(iter(points.values()))}."
    else:
        where = f"Each at its best: {'; '.join(f'{network} at {point}' for network, point in points.items())}."
    return {
        "headline": (f"Test {name}", f"{where} Batch norm predicts by its moving average."),
        "forest": _forest_caption(name, max((contrast.pairs for contrast in contrasts), default=1)),
        "loss": ("Training loss", "Over the batches of each epoch, as the weights moved."),
        "training": (f"Training {name}", "Over the batches of each epoch, as the weights moved."),
        "test": (f"Test {name}, moving average", "On the test set, batch norm by its moving average."),
        "population": (
            f"Test {name}, population statistics",
            "The same weights, batch norm by the statistics of the whole training part.",
        ),
        "rates": (
            f"Test {name} over the learning rate",
            (
                "Means over the runs that finished, with 95 % intervals; a cross at the bottom marks a rate at which runs diverged or "
                "failed, and says how many."
            ),
        ),
        "time": (
            "Time",
            "Seconds of training for an epoch, evaluation left out: the mean over the runs of their medians. Lines: 95 % intervals.",
        ),
        "memory": (
            "Memory",
            "MB (a million bytes) that one training batch keeps for its backward pass, parameters left out.",
        ),
        "peak_memory": (
            "GPU memory",
            (
                "The most that tensors took on the GPU while a run trained, those of the data included, in MB (a million bytes): "
                "the mean over the runs. Lines: 95 % intervals."
            ),
        ),
        "input": (
            "Into the layer",
            "Line: the median of all values in a training batch; dark: the middle half; light: from the 5th to the 95th percentile.",
        ),
        "output": ("Out of the layer", "The same for the output of the batch norm."),
        "gamma": ("γ, the scale", "The same over the channels' values."),
        "beta": ("β, the shift", "The same over the channels' values."),
        "layers": (
            "All layers",
            (
                "The figure chosen above, of every layer that has it, at the recorded steps. The bar shows the value of each colour; "
                "on a logarithmic scale, −2 is a hundredth."
            ),
        ),
    }


def _looks_legend(results: Results) -> dict[str, list[tuple[str, str]]]:
    looked_at = () if results.growth is None else (contrast.network for contrast in results.growth.contrasts)
    return {"looks": [(network, colour_of(results.plan, network)) for network in dict.fromkeys(looked_at)]}


def _looks_caption(results: Results) -> dict[str, tuple[str, str]]:
    if results.growth is None:
        return {}
    examples = {contrast.last.examples for contrast in results.growth.contrasts if contrast.last is not None}
    which = f" for {min(examples)} test examples" if len(examples) == 1 else ""
    what = (
        f"Lines: the 95 % interval{which} after each round of seeds, which allows for every look; grey: differences under the "
        "margin; a diamond: where it was decided."
    )
    return {"looks": ("The interval, look by look", f"{what} {describe_decisions(results.growth)}")}


def _forest_caption(name: str, pairs: int) -> tuple[str, str]:
    what = (
        f"Squares: mean differences in test {name} over pairs of runs with the same seed; thick lines: their 95 % intervals for these "
        "test examples, thin lines: for new ones like them; dashed: no difference. Where no pair finished there is no row."
    )
    if pairs == 1:
        return f"Test {name}, with minus without", what
    several = (
        f"With {pairs} pairs of networks, intervals are wider, by Holm's procedure: the chance that any of those at one learning "
        "rate leaves out 0 while there is no difference is 5 %."
    )
    return f"Test {name}, one network minus another", f"{what} {several}"


def _tables(results: Results, contrasts: Sequence[Contrast]) -> list[dict[str, Any]]:
    shown = (runs_table(results), *pairs_table(contrasts).values(), *further_tables(results).values())
    return [
        {
            "title": table.title,
            "header": table.header,
            "words": [not table.is_number(index) for index in range(len(table.columns))],
            "rows": table.rows[:_MAX_ROWS],
            "left_out": max(0, len(table.rows) - _MAX_ROWS),
            "note": _columns(Objective.of(results.plan.task)) if number == 0 else table.note,
        }
        for number, table in enumerate(shown)
    ]


def _columns(objective: Objective) -> str:
    return (
        f"All at the last epoch. loss and {objective.name}: over its training batches; test {objective.name}: batch norm by its moving "
        "average; population: the same weights, batch norm by the statistics of the whole training part; s/epoch: the mean "
        "over the epochs, evaluation left out; examples/s: training examples a second. A dash: there is none."
    )


def _environment(results: Results) -> Sequence[tuple[str, str]]:
    """The versions and machine that the runs were trained with; several values if they differ."""
    by_key: dict[str, dict[str, None]] = {}
    for run in results.plan:
        for key, value in results.records.get(run.run_id, Record()).environment.items():
            if key != "time" and value is not None:
                text = value if isinstance(value, str) else dumps(value)
                by_key.setdefault(key.replace("_", " "), {})[text] = None
    return [(key, "; ".join(values)) for key, values in by_key.items()]
