"""A chart of how the intervals narrowed while seeds were added: a line for each contrast over the pairs of seeds."""

from __future__ import annotations

from typing import Any

from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.models.annotations import BoxAnnotation

from bnkit.experiments.plan import Plan
from bnkit.experiments.until_settings import ContrastLooks
from bnkit.report.added_seeds import SeedGrowth
from bnkit.report.charts.bokeh_figures import colour_of
from bnkit.report.objective_metric import Objective
from bnkit.report.tables import format_setting

# The first interval, of three pairs, may be so wide that the others shrink to a line. So the picture's range is this many times
# the margin and the last interval; wider intervals are cropped.
_ROOM = 4.0


def draw_looks(plot: Any, growth: SeedGrowth, plan: Plan) -> Any:
    """Draw the looks of ``growth`` into an empty figure: the interval, the margin, and where each contrast was decided."""
    objective = Objective.of(plan.task)
    scale = 100 if objective.is_accuracy else 1
    margin = scale * growth.rule.largest_trifle(is_accuracy=objective.is_accuracy)
    if margin:
        plot.add_layout(
            BoxAnnotation(bottom=-margin, top=margin, fill_color="#888888", fill_alpha=0.15, line_color=None)
        )
    plot.hspan(y=[0], line_dash="dashed", line_color="#888888")
    shown = [contrast for contrast in growth.contrasts if contrast.looks]
    for contrast in shown:
        _draw(plot, contrast, colour_of(plan, contrast.network), scale)
    most = max(contrast.looks[-1].pairs for contrast in shown)
    plot.x_range = Range1d(start=0, end=most + 1)
    low, high = _heights(shown, margin, scale)
    plot.y_range = Range1d(start=low, end=high)
    return plot


def describe_decisions(growth: SeedGrowth) -> str:
    """When each contrast was decided, in a sentence."""
    states = []
    for contrast in growth.contrasts:
        if contrast.last is None:
            continue
        where = "".join(f", {key} {format_setting(value)}" for key, value in contrast.setting.items())
        state = "decided after" if contrast.is_decided else "open after"
        states.append(f"{contrast.network} against {contrast.baseline}{where}: {state} {contrast.last.pairs} pairs")
    return f"{'; '.join(states)}."


def _draw(plot: Any, contrast: ContrastLooks, colour: str, scale: float) -> None:
    looks = contrast.looks
    source = ColumnDataSource({
        "pairs": [look.pairs for look in looks],
        "mean": [scale * look.mean for look in looks],
        "low": [scale * (look.mean if look.low is None else look.low) for look in looks],
        "high": [scale * (look.mean if look.high is None else look.high) for look in looks],
        "verdict": [look.verdict for look in looks],
    })  # fmt: skip
    plot.varea("pairs", "low", "high", source=source, color=colour, alpha=0.15)
    plot.segment("pairs", "low", "pairs", "high", source=source, color=colour, width=2)
    plot.line("pairs", "mean", source=source, color=colour, width=2)
    dots = plot.scatter("pairs", "mean", source=source, color=colour, size=7)
    if contrast.is_decided:
        plot.scatter([looks[-1].pairs], [scale * looks[-1].mean], color=colour, size=15, marker="diamond")
    where = "".join(f", {key} {format_setting(value)}" for key, value in contrast.setting.items())
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[
        ("", f"{contrast.network} against {contrast.baseline}{where}"), ("pairs", "@pairs"), ("mean", "@mean{+0.00}"),
        ("interval", "@low{+0.00} to @high{+0.00}"), ("verdict", "@verdict"),
    ]))  # fmt: skip


def _heights(shown: list[ContrastLooks], margin: float, scale: float) -> tuple[float, float]:
    """The lowest and the highest value shown: they include all last intervals and the margin; earlier ones may be cropped."""
    last = [
        scale * end
        for contrast in shown
        for look in contrast.looks[-1:]
        for end in (look.low, look.high)
        if end is not None
    ]
    every = [
        scale * end for contrast in shown for look in contrast.looks for end in (look.low, look.high) if end is not None
    ]
    low, high = min([-margin, 0.0, *last]), max([margin, 0.0, *last])
    room = (high - low) * (_ROOM - 1) / 2 or 1.0
    low, high = max(low - room, min([low, *every])), min(high + room, max([high, *every]))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
