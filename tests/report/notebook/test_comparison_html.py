"""What a notebook shows of a comparison: escaped, complete in itself, readable on both kinds of page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from bnkit.intervals.interval import Interval
from bnkit.report.answer_text import Answer
from bnkit.report.charts.curves import Curve
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.notebook.comparison_html import comparison_html, curves_picture
from bnkit.report.notebook.inline_svg import curves_svg, differences_svg
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import DifferenceRow
from bnkit.report.paper.paper_summary import summary_of
from tests.report.fake_runs import diverged_record, fake_plan, fake_results, finished_record

_BAD_NAME = '<script>alert("1")</script> & ${}'
_VOID = {"br", "meta"}


class _Elements(HTMLParser):
    """Raises where elements are not nested; lists their names."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _page(outcome=lambda run: finished_record(0.5, 0.8 + 0.1 * (run.network.key != "no_batch_norm")), **changes):
    results = fake_results(fake_plan(**changes), outcome)
    answer = Answer.of(results)
    summary = summary_of(results, answer.contrasts, answer.headline)
    return comparison_html(answer, summary, results.plan.networks, [curves_picture(results, answer)])


def test_it_has_the_verdict_two_pictures_and_a_table():
    page = _page()
    seen = _Elements(page).seen
    assert (seen.count("svg"), seen.count("table"), seen.count("details")) == (2, 1, 1)
    assert "batch_norm bought +10.0 points of test accuracy" in page
    assert "test accuracy, lr 0.1" in page


def test_it_needs_no_network_and_no_script():
    page = _page()
    addresses = set(re.findall(r"\w+://[^\"' ]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which nothing fetches
    assert not {"script", "img", "link"} & set(_Elements(page).seen)


def test_names_are_escaped_everywhere():
    page = _page(networks=("no_batch_norm", _BAD_NAME))
    assert "script" not in _Elements(page).seen
    assert "&lt;script&gt;" in page


def test_colours_are_those_of_the_page_or_of_both_kinds_of_page():
    """Text in the page's own colour; nothing is black or white."""
    page = _page()
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', page))
    assert colours == {"currentColor", "none", "#D55E00", "#0072B2", "#888888", "rgba(128,128,128,.35)"}


@pytest.mark.parametrize(
    "outcome",
    [
        lambda run: None,
        lambda run: diverged_record(),
        lambda run: finished_record(0.8) if run.network.key == "batch_norm" else None,
        lambda run: finished_record(1.0),
    ],
    ids=["nothing yet", "all lost", "one network", "all equal"],
)
def test_a_comparison_without_an_answer_is_shown_too(outcome):
    _Elements(_page(outcome))


def test_a_long_table_says_where_the_rest_is():
    page = _page(grid={"lr": [0.1 + 0.01 * number for number in range(20)]})
    assert "… 16 more: summary() has them" in page
    assert "… and 9 more" in page  # differences


def test_what_is_left_out_of_the_answer_is_a_note():
    answer = Answer((), (), 0, ("Left out: <2> rows.",))
    results = fake_results(fake_plan(), lambda run: finished_record(0.8))
    page = comparison_html(answer, summary_of(results, (), answer.headline), ("a",))
    assert '<p class="note">Left out: &lt;2&gt; rows.</p>' in page


def _places(svg, tag, *attributes):
    root = ElementTree.fromstring(str(svg))  # noqa: S314
    return [
        tuple(element.get(name) for name in attributes) for element in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    ]


def test_curves_lie_where_their_values_are():
    curve = Curve("a", "#0072B2", (1, 3), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (2, 2))
    svg = curves_svg([curve], "test accuracy", is_share=True)
    assert _places(svg, "polyline", "points") == [("44.0,210.0 370.0,40.0",)]
    flat = Curve("a", "#000000", (1,), (0.5,), (0.5,), (0.5,), (1,))
    svg = curves_svg([flat], "loss", is_share=False)
    assert _places(svg, "circle", "fill") == [("currentColor",)]
    assert curves_svg([], "loss", is_share=False) == ""
    assert curves_svg([Curve("a", "#0072B2", (), (), (), (), ())], "loss", is_share=False) == ""


def test_differences_lie_where_their_ends_are():
    row = DifferenceRow("lr 0.1", "b", "a", Interval(0.1, 0.0, 0.2, 3), Interval(0.1, -0.1, 0.3, 3))
    svg = differences_svg([row], ["a", "b"], Objective())
    thick, thin = ((float(a), float(b)) for a, b, width in _places(svg, "line", "x1", "x2", "stroke-width") if width)
    middle = sum(thick) / 2
    assert (thick[1] - thick[0]) * 2 == pytest.approx(thin[1] - thin[0], abs=0.2)
    assert float(_places(svg, "rect", "x")[0][0]) + 4.5 == pytest.approx(middle, abs=0.1)
    assert differences_svg([], ["a"], Objective()) == ""


def test_a_difference_with_one_pair_has_no_interval():
    results = fake_results(fake_plan(seeds=1), lambda run: finished_record(0.8))
    found = contrasts(results)[0].best.test
    svg = differences_svg([DifferenceRow("x" * 60, "b", "a", found)], ["a", "b"], Objective())
    assert len(_places(svg, "rect", "x")) == 1 and not [w for (w,) in _places(svg, "line", "stroke-width") if w]
