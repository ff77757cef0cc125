"""Pictures drawn with matplotlib, in the colours of the report: at the width of a paper's column. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.errors import RecordError, SettingsError
from bnkit.message_parts import not_installed
from bnkit.report.charts.curves import Curve, colour_among
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import DifferenceRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The width of a column in the styles of ICML, ACL and IEEE, in inches.
COLUMN_WIDTH = 3.25
FORMATS = ("pdf", "png", "svg")
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "#d9dee3",
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
}
# Text that can be searched and edited, and reproducible files.
_FILE_STYLE = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bnkit"}
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"Creator": "bnkit", "CreationDate": None},
    "svg": {"Creator": "bnkit", "Date": None},
    "png": {"Software": None},
}
_ZERO = "#888888"
# The longest labels, in letters, that fit to the left of the intervals, and above them in the width of a column.
_LONGEST_BESIDE, _LONGEST_ABOVE = 24, 60

Draw = Callable[["Axes"], None]


def draw_curves(curves: Sequence[Curve], y: str, *, is_share: bool) -> Draw:
    """Return a function that draws a line for each network: the mean over the seeds, in a band from lowest to highest."""

    def draw(ax: Axes) -> None:
        from matplotlib.ticker import FixedLocator, MaxNLocator

        for curve in curves:
            few = len(curve.epochs) == 1  # a single point makes no line
            ax.fill_between(curve.epochs, curve.low, curve.high, color=curve.colour, alpha=0.18, linewidth=0)
            ax.plot(
                curve.epochs, curve.mean, color=curve.colour, linewidth=1.5, marker="o" if few else "", markersize=4,
                label=_as_it_is(curve.network),
            )  # fmt: skip
        ax.set_xlabel("epoch")
        ax.set_ylabel(_as_it_is(y))
        epochs = {epoch for curve in curves for epoch in curve.epochs}
        # Around a single epoch there would be fractions of it.
        ax.xaxis.set_major_locator(MaxNLocator(integer=True) if len(epochs) > 1 else FixedLocator([*epochs]))
        ax.margins(x=0.02)
        if is_share:
            ax.set_ylim(0, 1.02)
        ax.grid(axis="y")
        ax.legend(loc="best")

    return draw


def draw_differences(rows: Sequence[DifferenceRow], networks: Sequence[str], objective: Objective) -> Draw:
    """Return a function that draws each mean difference as a square on its 95 % interval; thin, with ends: new examples."""
    scale = 100 if objective.is_accuracy else 1

    def draw(ax: Axes) -> None:
        ax.axvline(0, color=_ZERO, linestyle="--", linewidth=0.8)
        has_new = any(row.new_examples is not None for row in rows)
        for index, row in enumerate(rows):
            colour = colour_among(networks, row.network)
            for interval, width, cap in ((row.interval, 2.5, ""), (row.new_examples, 0.9, "|")):
                if interval is not None and interval.low is not None and interval.high is not None:
                    ends = (scale * interval.low, scale * interval.high)
                    ax.plot(
                        ends,
                        (index, index),
                        color=colour,
                        linewidth=width,
                        marker=cap,
                        markersize=7,
                        solid_capstyle="butt",
                    )
            ax.plot(scale * row.interval.mean, index, color=colour, marker="s", markersize=5, linestyle="")
        _label_rows(ax, [_as_it_is(row.label) for row in rows], above=_are_long(rows))
        ax.set_ylim(len(rows) - 0.4, -0.8 if _are_long(rows) else -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("\n".join(_names_of_differences(rows, objective)))
        ax.grid(axis="x")
        if has_new:
            from matplotlib.lines import Line2D

            lines = [Line2D([], [], color=_ZERO, linewidth=2.5), Line2D([], [], color=_ZERO, linewidth=0.9, marker="|")]
            ax.legend(
                lines, ["these test examples", "new examples"], loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2
            )

    return draw


def _are_long(rows: Sequence[DifferenceRow]) -> bool:
    return max((len(row.label) for row in rows), default=0) > _LONGEST_BESIDE


def _label_rows(ax: Axes, labels: Sequence[str], *, above: bool) -> None:
    """Label the rows: on their left, or ``above`` them if the labels are too long, in letters that fit."""
    if not above:
        ax.set_yticks(range(len(labels)), labels)
        return
    ax.set_yticks([])
    size = 6.5 * min(1.0, _LONGEST_ABOVE / max(map(len, labels)))
    for index, label in enumerate(labels):
        text = ax.text(0, index - 0.22, label, transform=ax.get_yaxis_transform(), fontsize=size, va="bottom")
        text.set_in_layout(False)


def _names_of_differences(rows: Sequence[DifferenceRow], objective: Objective) -> list[str]:
    """The name of the axis: the measure, and the networks if the rows' labels do not name them."""
    unit = " (points)" if objective.is_accuracy else ""
    pairs = {f"{row.network} − {row.baseline}" for row in rows}
    return [_as_it_is(f"difference in {objective.title}{unit}"), *(map(_as_it_is, pairs) if len(pairs) == 1 else ())]


def _as_it_is(text: str) -> str:
    """``text`` escaped, so that matplotlib finds no formula in it."""
    return text.replace("$", r"\$")


def height_of_differences(rows: Sequence[DifferenceRow]) -> float:
    """The height of the picture, in inches."""
    return 0.75 + (0.32 if _are_long(rows) else 0.2) * max(len(rows), 2)


def plotted(draw: Draw, ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Draw in ``ax``, or in the axes of a new figure, which a notebook shows; return the axes.

    Raises:
        SettingsError: matplotlib is not installed, or ``ax`` is not matplotlib's Axes.
    """
    matplotlib = _matplotlib()
    if ax is not None:
        from matplotlib.axes import Axes as AnyAxes

        if not isinstance(ax, AnyAxes):
            raise SettingsError(
                f"ax is a {type(ax).__name__}; expected the Axes of a matplotlib figure, or None for a new one"
            )
        draw(ax)
        return ax
    from matplotlib import pyplot

    # Before the style is entered: the first figure loads the notebook's backend, whose own settings have to stay.
    figure = pyplot.figure(figsize=size, layout="constrained")
    with matplotlib.rc_context(_STYLE):
        new: Axes = figure.subplots()
        draw(new)
    return new


def save(draw: Draw, path: Path, size: tuple[float, float], form: str | None = None) -> None:
    """Write a picture: PDF with embedded fonts (TrueType), SVG with its text as text. The same figures give the same file.

    Args:
        draw: Draws the picture in axes.
        path: The file; its ending sets the format.
        size: The width and height in inches.
        form: The one of ``FORMATS`` that the ending has to be; by default any.

    Raises:
        SettingsError: matplotlib is not installed, or ``path`` has another ending.
        RecordError: The file cannot be written.
    """
    ending, expected = path.suffix.removeprefix(".").lower(), FORMATS if form is None else (form,)
    if ending not in expected:
        raise SettingsError(
            f"{path} {f'ends in {path.suffix!r}' if path.suffix else 'has no ending'}; expected .{', .'.join(expected)}"
        )
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**_STYLE, **_FILE_STYLE}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        try:
            figure.savefig(path, format=ending, metadata=_METADATA[ending])
        except OSError as error:
            raise RecordError(f"{path} cannot be written ({error.strerror}); expected a file that can") from error


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise SettingsError(not_installed("a plot", "matplotlib", "plot")) from error
    return matplotlib
