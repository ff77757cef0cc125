"""The charts of the page: Bokeh figures whose sources the page fills itself, so that its switches work offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, FactorRange, FixedTicker, HoverTool, LinearColorMapper, Range1d
from bokeh.models.annotations import ColorBar, TeeHead, Whisker
from bokeh.plotting import figure

from bnkit.experiments.plan import Plan
from bnkit.intervals.interval import Interval
from bnkit.report.charts.bokeh_figures import colour_of
from bnkit.report.charts.interval_by_seeds_chart import draw_looks
from bnkit.report.charts.series import PANELS
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.objective_metric import Objective
from bnkit.report.results_of_plan import Results
from bnkit.report.run_outcomes import RunOutcome, outcomes
from bnkit.report.tables import format_setting

# Later lines are dashed, so that coinciding lines (two layers with equal values) stay visible.
_DASHES = ("solid", "solid", (10, 6), (3, 5), (14, 4, 3, 4))
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle")
_CYCLE = ("25th to 75th", "5th to 95th")


def charts(results: Results, contrasts: Sequence[Contrast]) -> dict[str, Any]:
    """The figures by name; sources are called ``<figure>:<network>`` and filled by the page where their data vary."""
    objective = Objective.of(results.plan.task)
    titles = dict(
        zip(
            PANELS,
            ("training loss", f"training {objective.name}", f"test {objective.name}", f"test {objective.name}"),
            strict=True,
        )
    )
    drawn = {"headline": _curve(results.plan, "headline", f"test {objective.name}", objective)}
    if any(contrast.best or contrast.by_learning_rate for contrast in contrasts):
        drawn["forest"] = _forest(results.plan, contrasts, objective)
    if results.growth is not None and any(contrast.looks for contrast in results.growth.contrasts):
        frame = _plot(
            "looks", "pairs of seeds", "difference in points" if objective.is_accuracy else "difference", height=300
        )
        drawn["looks"] = draw_looks(frame, results.growth, results.plan)
    panels = [panel for panel in PANELS if panel != "population" or _has_population(results, objective)]
    drawn |= {panel: _curve(results.plan, panel, titles[panel], objective) for panel in panels}
    if len({run.settings.lr for run in results.plan}) > 1:
        drawn["rates"] = _rates(results.plan, objective)
    drawn["time"] = _bars(results.plan, "seconds for an epoch", _seconds(results))
    memory = _memory(results)
    if memory:
        drawn["memory"] = _bars(results.plan, "MB kept for the backward pass", memory)
    peak = _peak_memory(results)
    if peak:
        drawn["peak_memory"] = _bars(results.plan, "MB of GPU memory at most", peak)
    if any(epoch.layers for record in results.records.values() for epoch in record.epochs):
        drawn |= {name: _fan_chart(name) for name in ("input", "output", "gamma", "beta")}
        drawn["layers"] = _heatmap()
    return drawn


def _curve(plan: Plan, name: str, y: str, objective: Objective) -> Any:
    plot = _plot(name, "epoch", y, height=320 if name == "headline" else 280)
    lines = []
    for index, network in enumerate(plan.networks):
        source = ColumnDataSource({key: [] for key in ("x", "mean", "low", "high", "n")}, name=f"{name}:{network}")
        each = ColumnDataSource({"xs": [], "ys": [], "seed": []}, name=f"{name}:{network}:seeds")
        style = {"color": colour_of(plan, network), "line_dash": _DASHES[index % len(_DASHES)]}
        plot.varea("x", "low", "high", source=source, color=style["color"], alpha=0.18)
        plot.line("x", "mean", source=source, width=2.5, **style)
        lines.append(plot.multi_line("xs", "ys", source=each, width=1.2, name=network, **style))
    # One tooltip for all networks: one for each would lie on top of the others.
    values = {f"value_{index}": network for index, network in enumerate(plan.networks)}
    under_mouse = ColumnDataSource({key: [] for key in ("x", "y", *values)}, name=f"{name}:under_mouse")
    points = plot.scatter("x", "y", source=under_mouse, size=1, alpha=0)
    plot.add_tools(
        HoverTool(renderers=[points], mode="vline", attachment="horizontal", tooltips=[
            ("at", "@x{0.[00]}"), *((network, f"@{key}") for key, network in values.items()),
        ]),
        HoverTool(renderers=lines, line_policy="nearest", tooltips=[("network", "$name"), ("seed", "@seed"), ("", "$y{0.0000}")]),
    )  # fmt: skip
    return plot


def _has_population(results: Results, objective: Objective) -> bool:
    """Whether it was measured after several epochs of a run. By default it is only measured after the last: a single point."""
    measured = (
        [epoch for epoch in outcome.record.epochs if objective.population(epoch) is not None]
        for outcome in outcomes(results)
    )
    return any(len(epochs) > 1 for epochs in measured)


def _forest(plan: Plan, contrasts: Sequence[Contrast], objective: Objective) -> Any:
    """Differences with their intervals, one row each; the line at zero means no difference."""
    scale = 100 if objective.is_accuracy else 1
    rows: list[tuple[str, str, Interval, Interval]] = []
    for contrast in contrasts:
        where = "".join(f", {key} {format_setting(value)}" for key, value in contrast.setting.items())
        if contrast.pairs > 1:
            where = f" against {contrast.baseline}{where}"
        if contrast.best is not None and contrast.best.test is not None and len(contrast.by_learning_rate) > 1:
            best = contrast.best.test, contrast.best.decisive or contrast.best.test
            rows.append((f"{contrast.network}{where}: each at its best", contrast.network, *best))
        rows += [
            (f"{contrast.network}{where}: lr {at.lr:g}", contrast.network, at.test, at.test_new_examples or at.test)
            for at in contrast.by_learning_rate
            if at.test is not None
        ]
    labels = [label for label, *_ in rows]
    plot = _plot(
        "forest",
        f"test {objective.name}: difference{' in points' if objective.is_accuracy else ''}",
        "",
        height=90 + 24 * max(len(rows), 2),
        y_range=FactorRange(factors=labels[::-1]),
    )
    ends = [scale * (interval.mean if end is None else end)
            for *_, interval in rows for end in (interval.low, interval.mean, interval.high)]  # fmt: skip
    low, high = min([0.0, *ends]), max([0.0, *ends])
    plot.x_range = Range1d(start=low - 0.04 * ((high - low) or 1), end=high + 0.04 * ((high - low) or 1))
    source = ColumnDataSource({
        "label": labels,
        "mean": [scale * interval.mean for _, _, interval, _ in rows],
        **_ends([these for _, _, these, _ in rows], "", scale),
        **_ends([new for *_, new in rows], "new_", scale),
        "n": [interval.n for _, _, interval, _ in rows],
        "colour": [colour_of(plan, network) for _, network, *_ in rows],
    })  # fmt: skip
    plot.vspan(x=[0], line_dash="dashed", line_color="#888888")
    plot.segment("new_low", "label", "new_high", "label", source=source, color="colour", width=1)
    plot.segment("low", "label", "high", "label", source=source, color="colour", width=4)
    dots = plot.scatter("mean", "label", source=source, color="colour", size=9, marker="square")
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[
        ("", "@label"), ("mean", "@mean{+0.00}"), ("95 %, these test examples", "@low{+0.00} to @high{+0.00}"),
        ("95 %, new ones", "@new_low{+0.00} to @new_high{+0.00}"), ("n", "@n"),
    ]))  # fmt: skip
    return plot


def _ends(intervals: Sequence[Interval], prefix: str, scale: float) -> dict[str, list[float]]:
    """The ends of ``intervals``; the mean for an interval without ends."""
    lows = [scale * (interval.mean if interval.low is None else interval.low) for interval in intervals]
    highs = [scale * (interval.mean if interval.high is None else interval.high) for interval in intervals]
    return {f"{prefix}low": lows, f"{prefix}high": highs}


def _rates(plan: Plan, objective: Objective) -> Any:
    rates = sorted({run.settings.lr for run in plan})
    plot = _plot(
        "rates", "learning rate", f"test {objective.name} at the end", height=340, x_axis_type="log",
        x_range=Range1d(start=rates[0] / 1.5, end=rates[-1] * 1.5),
    )  # fmt: skip
    plot.xaxis.ticker = FixedTicker(ticks=rates)
    plot.xaxis.major_label_overrides = {rate: format_setting(rate) for rate in rates}
    for index, network in enumerate(plan.networks):
        source = ColumnDataSource({key: [] for key in ("lr", "mean", "low", "high", "n")}, name=f"rates:{network}")
        lost = ColumnDataSource({"lr": [], "y": [], "lost": []}, name=f"rates:{network}:lost")
        colour = colour_of(plan, network)
        plot.line("lr", "mean", source=source, color=colour, width=2.5, line_dash=_DASHES[index % len(_DASHES)])
        dots = plot.scatter("lr", "mean", source=source, color=colour, size=9, marker=_MARKERS[index % len(_MARKERS)])
        plot.add_layout(_whisker("lr", source, colour))
        crosses = plot.scatter("lr", "y", source=lost, color=colour, size=11, line_width=2.5, marker="x")
        plot.text(
            "lr", "y", "lost", source=lost, x_offset=9, text_baseline="middle", text_font_size="10px", text_color=colour
        )
        plot.add_tools(
            HoverTool(renderers=[dots], tooltips=[
                ("network", network), ("lr", "@lr"), ("mean", "@mean{0.000}"), ("95 %", "@low{0.000} to @high{0.000}"), ("n", "@n"),
            ]),
            HoverTool(renderers=[crosses], tooltips=[("network", network), ("lr", "@lr"), ("diverged or failed", "@lost")]),
        )  # fmt: skip
    return plot


def _whisker(base: str, source: ColumnDataSource, colour: str) -> Whisker:
    lower, upper = TeeHead(size=8, line_color=colour), TeeHead(size=8, line_color=colour)
    return Whisker(
        base=base, lower="low", upper="high", source=source, line_color=colour, level="annotation",
        lower_head=lower, upper_head=upper,
    )  # fmt: skip


def _bars(plan: Plan, y: str, values: Mapping[str, Interval | None]) -> Any:
    names = [network for network in plan.networks if values.get(network) is not None]
    plot = _plot(y.split(" ", maxsplit=1)[0], "", y, height=260, x_range=FactorRange(factors=names))
    intervals = [interval for network in names if (interval := values[network]) is not None]
    highest = max((interval.mean if interval.high is None else interval.high for interval in intervals), default=1.0)
    plot.y_range = Range1d(start=0, end=1.05 * highest)
    source = ColumnDataSource({
        "network": names,
        "mean": [interval.mean for interval in intervals],
        "low": [interval.mean if interval.low is None else interval.low for interval in intervals],
        "high": [interval.mean if interval.high is None else interval.high for interval in intervals],
        "colour": [colour_of(plan, network) for network in names],
        "label": [f"{interval.mean:.3g}" for interval in intervals],
    })  # fmt: skip
    bars = plot.vbar("network", 0.5, "mean", source=source, color="colour")
    plot.text("network", 0, "label", source=source, y_offset=-5, text_align="center", text_color="#ffffff",
              text_font_style="bold", text_font_size="13px")  # fmt: skip
    plot.add_layout(_whisker("network", source, "#888888"))
    plot.add_tools(
        HoverTool(
            renderers=[bars],
            tooltips=[("", "@network"), ("mean", "@mean{0.000}"), ("95 %", "@low{0.000} to @high{0.000}")],
        )
    )
    plot.xgrid.visible = False
    plot.xaxis.major_label_orientation = 0.5 if len(names) > 4 else "horizontal"
    return plot


def _seconds(results: Results) -> dict[str, Interval | None]:
    return _by_network(results, lambda o: [epoch.epoch_duration for epoch in o.record.epochs])


def _memory(results: Results) -> dict[str, Interval | None]:
    by_network = _by_network(
        results,
        lambda o: [epoch.backward_bytes / 1e6 for epoch in o.record.epochs if epoch.backward_bytes is not None],
    )
    return by_network if any(by_network.values()) else {}


def _peak_memory(results: Results) -> dict[str, Interval | None]:
    def most(outcome: RunOutcome) -> list[float]:
        known = [epoch.peak_memory_bytes / 1e6 for epoch in outcome.record.epochs if epoch.peak_memory_bytes]
        return [max(known)] if known else []

    by_network = _by_network(results, most)
    return by_network if any(by_network.values()) else {}


def _by_network(results: Results, values: Any) -> dict[str, Interval | None]:
    from statistics import median

    from bnkit.intervals.student import mean_interval

    by_network: dict[str, list[float]] = {network: [] for network in results.plan.networks}
    outcome: RunOutcome
    for outcome in outcomes(results):
        known = values(outcome)
        if known:
            by_network[outcome.run.network.key].append(median(known))
    return {network: mean_interval(known) for network, known in by_network.items()}


def _fan_chart(name: str) -> Any:
    """The distribution of one layer's values over the steps: the middle half, nearly all, and the median."""
    what = {"input": "what goes in", "output": "what comes out", "gamma": "γ", "beta": "β"}[name]
    plot = _plot(name, "step", what, height=240)
    source = ColumnDataSource(
        {key: [] for key in ("step", "q05", "q25", "q50", "q75", "q95", "mean")}, name=f"{name}:fan"
    )
    plot.varea("step", "q05", "q95", source=source, color="#0072B2", alpha=0.18)
    plot.varea("step", "q25", "q75", source=source, color="#0072B2", alpha=0.35)
    line = plot.line("step", "q50", source=source, color="#0072B2", width=2)
    plot.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=[
        ("step", "@step"), ("median", "@q50"), (_CYCLE[0], "@q25 to @q75"), (_CYCLE[1], "@q05 to @q95"), ("mean", "@mean"),
    ]))  # fmt: skip
    return plot


def _heatmap() -> Any:
    """One figure of all layers over the steps, as colours."""
    plot = _plot("layers", "step", "", height=320, y_range=FactorRange(factors=[""], name="layers:names"))
    source = ColumnDataSource({key: [] for key in ("step", "layer", "width", "colour", "value")}, name="layers:heat")
    mapper = LinearColorMapper(palette="Viridis256", low=0, high=1, name="layers:mapper", nan_color="#00000000")
    cells = plot.rect(
        "step", "layer", "width", 1, source=source, fill_color={"field": "colour", "transform": mapper}, line_color=None
    )
    plot.add_layout(ColorBar(color_mapper=mapper, width=12, background_fill_color=None), "right")
    plot.add_tools(HoverTool(renderers=[cells], tooltips=[("layer", "@layer"), ("step", "@step"), ("", "@value")]))
    return plot


def _plot(name: str, x: str, y: str, *, height: int, **options: Any) -> Any:
    # The page sets the other properties to fit the values that it shows.
    options = {"x_range": Range1d(start=0, end=1), "y_range": Range1d(start=0, end=1), **options}
    plot = figure(
        name=name, height=height, x_axis_label=x, y_axis_label=y, tools="pan,box_zoom,wheel_zoom,reset,save",
        sizing_mode="stretch_width", background_fill_color=None, border_fill_color=None, outline_line_color=None,
        active_scroll=None, active_drag=None, **options,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot
