"""Pictures of a comparison, drawn with Bokeh: they work offline, with a mouse. Needs no torch."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.models.annotations import Whisker
from bokeh.plotting import figure

from bnkit.experiments.plan import Plan, Run
from bnkit.report.charts.curves import colour_of, curves
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import interval_over_seeds, matches, outcomes, points_of
from bnkit.report.tables import format_setting

__all__ = ["colour_of", "figures"]

_WIDTH, _HEIGHT = 460, 300


def figures(results: Results) -> dict[str, Any]:
    """Bokeh figures by title: the test measure over the learning rate, and curves over the epochs at each setting."""
    objective = Objective.of(results.plan.task)
    drawn: dict[str, Any] = {}
    rates = sorted({run.settings.lr for run in results.plan})
    for label, runs in _by_setting(results.plan, without_lr=True).items():
        if len(rates) > 1:
            title = f"Test {objective.name} over the learning rate{label and ', '}{label}"
            drawn[title] = _over_learning_rate(results, runs, rates)
    for label, runs in _by_setting(results.plan, without_lr=False).items():
        drawn[f"Test {objective.name}, {label}"] = _over_epochs(results, runs, f"test_{objective.field}")
        drawn[f"Training loss, {label}"] = _over_epochs(results, runs, "loss")
    return drawn


def _by_setting(plan: Plan, *, without_lr: bool) -> dict[str, list[Run]]:
    """The runs by the settings that vary between them, as ``lr 0.1, batch_size 64``."""
    varying = plan.varying
    keys = [
        key
        for key in plan.experiment.grid.explicit_keys
        if (key == "lr" and not without_lr) or (key != "lr" and key in varying)
    ]
    return {
        ", ".join(f"{key} {format_setting(value)}" for key, value in point.items()): [
            run for run in plan if matches(run.settings, point)
        ]
        for point in points_of(plan, keys)
    }


def _over_learning_rate(results: Results, runs: list[Run], rates: list[float]) -> Any:
    objective = Objective.of(results.plan.task)
    plot = _plot("learning rate", f"test {objective.name} at the end", x_axis_type="log")
    plot.xaxis.ticker = FixedTicker(ticks=rates)
    plot.xaxis.major_label_overrides = {rate: format_setting(rate) for rate in rates}
    if objective.is_accuracy:
        plot.y_range = Range1d(start=0, end=1.02)
    for network in results.plan.networks:
        of_network = [o for o in outcomes(results) if o.run in runs and o.run.network.key == network]
        points = []
        for lr in rates:
            interval = interval_over_seeds(o for o in of_network if o.run.settings.lr == lr)
            if interval is None:
                continue
            low = interval.mean if interval.low is None else interval.low
            high = interval.mean if interval.high is None else interval.high
            points.append((lr, interval.mean, low, high, interval.n))
        source = ColumnDataSource(
            {name: [point[i] for point in points] for i, name in enumerate(("lr", "mean", "low", "high", "n"))}
        )
        colour = colour_of(results.plan, network)
        plot.line("lr", "mean", source=source, color=colour, width=2, legend_label=network)
        dots = plot.scatter("lr", "mean", source=source, color=colour, size=7, legend_label=network)
        plot.add_layout(Whisker(base="lr", lower="low", upper="high", source=source, line_color=colour))
        plot.add_tools(
            HoverTool(
                renderers=[dots],
                tooltips=[
                    ("network", network),
                    ("lr", "@lr"),
                    ("mean", "@mean{0.000}"),
                    ("95 %", "@low{0.000} to @high{0.000}"),
                    ("n", "@n"),
                ],
            )
        )
    _legend(plot, "bottom_left")
    return plot


def _over_epochs(results: Results, runs: list[Run], name: str) -> Any:
    """The mean over the seeds as a line, their range as a band."""
    plot = _plot("epoch", name.replace("metric", Objective.of(results.plan.task).name).replace("_", " "))
    for curve in curves(results, name, runs):
        network, colour = curve.network, curve.colour
        source = ColumnDataSource(
            {
                "epoch": list(curve.epochs),
                **{key: list(getattr(curve, key)) for key in ("mean", "low", "high", "n")},
            }
        )
        plot.varea("epoch", "low", "high", source=source, color=colour, alpha=0.18, legend_label=network)
        line = plot.line("epoch", "mean", source=source, color=colour, width=2, legend_label=network)
        plot.add_tools(
            HoverTool(
                renderers=[line],
                mode="vline",
                tooltips=[
                    ("network", network),
                    ("epoch", "@epoch"),
                    ("mean", "@mean{0.000}"),
                    ("seeds", "@low{0.000} to @high{0.000}, n = @n"),
                ],
            )
        )
    is_accuracy = "accuracy" in name
    if is_accuracy:
        plot.y_range = Range1d(start=0, end=1.02)
    _legend(plot, "bottom_right" if is_accuracy else "top_right")
    return plot


def _plot(x: str, y: str, **options: Any) -> Any:
    plot = figure(
        width=_WIDTH,
        height=_HEIGHT,
        x_axis_label=x,
        y_axis_label=y,
        tools="pan,box_zoom,wheel_zoom,reset,save",
        sizing_mode="scale_width",
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot


def _legend(plot: Any, location: str) -> None:
    plot.legend.location = location
    plot.legend.click_policy = "hide"
    plot.legend.background_fill_alpha = 0.7
