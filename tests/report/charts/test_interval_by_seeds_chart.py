"""The picture of the looks, drawn from records."""

from __future__ import annotations

import pytest
from bokeh.models.annotations import BoxAnnotation
from bokeh.plotting import figure

from bnkit.comparison.choose_next_runs import seed_growth
from bnkit.report.charts.interval_by_seeds_chart import describe_decisions, draw_looks
from tests.report.fake_runs import fake_plan, finished_record

pytestmark = pytest.mark.charts


def _growth(gain):
    plan = fake_plan(seeds=1, until={"goal": "decided", "margin": 2.0, "max_seeds": 5})
    accuracies = [0.5, 0.53, 0.49, 0.52, 0.5]

    def record(run):
        return finished_record((accuracies[run.seed] + gain) if run.network.key == "batch_norm" else 0.5)

    return plan, seed_growth(plan, record)


@pytest.mark.parametrize(("gain", "pairs", "decided"), [(0.4, [3], [3]), (0.0, [3, 4, 5], [])])
def test_the_interval_the_margin_and_where_it_was_decided(gain, pairs, decided):
    plan, growth = _growth(gain)
    plot = draw_looks(figure(), growth, plan)
    (band,) = (layer for layer in plot.center if isinstance(layer, BoxAnnotation))
    assert (band.bottom, band.top) == (-2.0, 2.0)
    lines, marks = [], []
    for renderer in plot.renderers:
        data = renderer.data_source.data
        lines += [data] if "verdict" in data else []
        marks += list(data["x"]) if getattr(renderer.glyph, "marker", None) == "diamond" else []
    assert lines[0]["pairs"] == pairs
    looks = growth.contrasts[0].looks
    assert lines[0]["low"] == [100 * look.low for look in looks]
    assert plot.y_range.start < lines[0]["low"][-1] < lines[0]["high"][-1] < plot.y_range.end
    assert marks == decided
    state = "decided" if decided else "open"
    assert describe_decisions(growth) == f"batch_norm against no_batch_norm: {state} after {pairs[-1]} pairs."
