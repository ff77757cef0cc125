"""Which picture is asked for, what is in it, and the files that it becomes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from bnkit.errors import RecordError, SettingsError
from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.compare_networks import contrasts
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import DifferenceRow, difference_rows
from bnkit.report.paper.matplotlib_figures import draw_differences, plotted, save
from bnkit.report.paper.plots import plot_of, plot_of_table
from tests.report.fake_runs import fake_plan, fake_results, finished_record

_GAIN = {"no_batch_norm": 0.80, "batch_norm": 0.90, "group_norm": 0.85}


def _results(**changes):
    planned = fake_plan(**{"grid": {"lr": [0.1, 0.3]}, **changes})
    return fake_results(
        planned, lambda run: finished_record(0.5, _GAIN[run.network.key] + 0.01 * run.seed + 0.1 * run.settings.lr)
    )


def _drawn(plot):
    axes = Figure().subplots()
    plot.draw(axes)
    return axes


def _plot(results, figure=None, **settings):
    return _drawn(plot_of(results, contrasts(results), figure, settings))


def test_curves_are_means_in_bands():
    axes = _plot(_results(), "test_accuracy", lr=0.1)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["no_batch_norm", "batch_norm"]
    assert list(lines["batch_norm"].get_xdata()) == [1, 2]
    assert lines["batch_norm"].get_ydata() == pytest.approx([0.5, 0.92])
    assert [line.get_color() for line in lines.values()] == ["#D55E00", "#0072B2"]
    (path,) = axes.collections[1].get_paths()
    assert (path.vertices[:, 1].min(), path.vertices[:, 1].max()) == pytest.approx((0.5, 0.93))
    assert axes.get_ylim() == (0, 1.02)


def test_by_default_each_network_is_shown_at_its_best():
    lines = {line.get_label(): line for line in _plot(_results()).get_lines()}
    assert lines["batch_norm"].get_ydata()[-1] == pytest.approx(0.94)  # at 0.3


def test_a_single_epoch_is_a_point():
    results = fake_results(fake_plan(epochs=1), lambda run: finished_record(0.8))
    axes = _plot(results)
    assert [line.get_marker() for line in axes.get_lines()] == ["o", "o"]
    assert list(axes.get_xticks()) == [1]  # and no fractions of an epoch


@pytest.mark.parametrize(
    ("settings", "labels"),
    [({}, ["each at its best lr", "lr 0.1", "lr 0.3"]), ({"lr": 0.3}, ["lr 0.3"])],
)
def test_differences_have_a_row_for_each_place(settings, labels):
    axes = _plot(_results(), "difference", **settings)
    assert [text.get_text() for text in axes.get_yticklabels()] == labels
    assert axes.get_xlabel() == "difference in test accuracy (points)\nbatch_norm − no_batch_norm"
    squares = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "s"]
    assert squares == pytest.approx([10.0] * len(labels))


def test_differences_of_several_pairs_name_them():
    rows = difference_rows(contrasts(_results(networks=tuple(_GAIN), grid={"lr": [0.1], "batch_size": [16, 64]})))
    assert len(rows) == 6
    assert rows[0].label == "batch_norm − no_batch_norm, batch_size 16, lr 0.1"
    assert [row.network for row in rows[::2]] == ["batch_norm", "group_norm", "batch_norm"]
    assert (
        len(difference_rows(contrasts(_results(grid={"lr": [0.1], "batch_size": [16, 64]})), {"batch_size": 64})) == 1
    )


def test_both_intervals_are_drawn_where_both_are_known():
    row = DifferenceRow("here", "b", "a", Interval(0.1, 0.05, 0.15, 3), Interval(0.1, 0.02, 0.18, 3))
    axes = Figure().subplots()
    draw_differences([row], ["a", "b"], Objective())(axes)
    ends = {
        line.get_linewidth(): list(line.get_xdata()) for line in axes.get_lines() if line.get_linewidth() in (2.5, 0.9)
    }
    assert ends == {2.5: pytest.approx([5, 15]), 0.9: pytest.approx([2, 18])}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["these test examples", "new examples"]


@pytest.mark.parametrize(
    ("figure", "settings", "message"),
    [
        ("test_acuracy", {}, "no figure is called 'test_acuracy'; .*did you mean 'test_accuracy'"),
        ("layers", {}, "no figure is called 'layers'"),
        ("test_scores", {}, "no figure is called 'test_scores'"),
        (
            "metric",
            {"lr": 0.1},
            "no run has recorded metric; expected a figure that one has, such as loss or difference",
        ),
        ("loss", {}, "name 2 points of the grid; expected one: give a value for lr"),
        ("difference", {"lr": 7.0}, "there is no difference to plot under the settings {'lr': 7.0}"),
        ("difference", {"rate": 1}, "unknown setting 'rate'"),
    ],
)
def test_what_cannot_be_plotted(figure, settings, message):
    with pytest.raises(SettingsError, match=message):
        _plot(_results(), figure, **settings)


@pytest.mark.parametrize(
    ("figure", "settings", "message"),
    [
        ("loss", {}, "a table has one value for each run; expected 'difference'"),
        (None, {"rate": 1}, "unknown setting 'rate'"),
    ],
)
def test_what_cannot_be_plotted_of_a_table(figure, settings, message):
    found = contrasts(_results())
    with pytest.raises(SettingsError, match=message):
        plot_of_table(found, ["no_batch_norm", "batch_norm"], figure, settings)


def test_axes_of_something_else_are_refused():
    with pytest.raises(SettingsError, match="ax is a Figure; expected the Axes of a matplotlib figure"):
        plotted(lambda axes: None, Figure(), (3, 2))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_same_figures_give_the_same_file(tmp_path, ending, start):
    results = _results()
    plot = plot_of(results, contrasts(results), "difference", {})
    for name in ("a", "b"):
        save(plot.draw, tmp_path / f"{name}.{ending}", plot.size(3.25))
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in ("a", "b"))
    assert first == second and first.startswith(start)


def test_a_pdf_is_as_wide_as_a_column_and_brings_its_fonts(tmp_path):
    results = _results()
    plot = plot_of(results, contrasts(results), None, {})
    save(plot.draw, tmp_path / "a.pdf", plot.size(3.25))
    content = (tmp_path / "a.pdf").read_bytes()
    width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)[1])
    assert width == pytest.approx(3.25 * 72)
    assert b"/FontFile2" in content and b"/Subtype /Type3" not in content


def test_an_svg_has_its_text_as_text(tmp_path):
    results = _results()
    plot = plot_of(results, contrasts(results), "difference", {})
    save(plot.draw, tmp_path / "a.svg", plot.size(3.25))
    assert "each at its best lr</text>" in (tmp_path / "a.svg").read_text()


def test_long_labels_leave_room_for_the_intervals(tmp_path):
    row = DifferenceRow(
        "resnet50_with_group_norm − resnet50_with_batch_norm, lr 0.1", "b", "a", Interval(0.1, 0.05, 0.15, 3)
    )
    draw = draw_differences([row, row], ["a", "b"], Objective())
    save(draw, tmp_path / "a.svg", (3.25, 1.5))  # a warning where there is no room
    axes = Figure().subplots()
    draw(axes)
    assert [text.get_text() for text in axes.texts] == [row.label] * 2 and not axes.get_yticklabels()


def test_dollar_signs_in_names_are_escaped():
    row = DifferenceRow("$x$", "$x$", "$_y", Interval(0.1, 0.05, 0.15, 3))
    axes = Figure().subplots()
    draw_differences([row], ["$_y", "$x$"], Objective())(axes)
    assert axes.get_yticklabels()[0].get_text() == r"\$x\$"
    axes.figure.canvas.draw()  # raises where `$_y` is taken for one


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a.jpg", SettingsError, "ends in '.jpg'; expected .pdf, .png, .svg"),
        ("a", SettingsError, "has no ending; expected .pdf, .png, .svg"),
        (
            "no/such/folder/a.pdf",
            RecordError,
            "cannot be written .No such file or directory.; expected a file that can",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        save(lambda axes: None, tmp_path / name, (3.25, 2))


@pytest.mark.slow
def test_without_matplotlib_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from bnkit.report.paper.matplotlib_figures import plotted\n"
        "plotted(lambda axes: None, None, (3, 2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr.splitlines()[-1].endswith(
        "a plot needs matplotlib, which is not installed; pip install 'bnkit[plot]'"
    )
