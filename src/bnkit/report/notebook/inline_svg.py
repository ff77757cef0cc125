"""The pictures of a comparison as inline SVG for a notebook. Text takes the page's colour, on light and dark pages.

The SVG is written by hand: a matplotlib picture suits one background only, is ten times as large, and needs an extra.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bnkit.report.charts.curves import Curve, colour_among
from bnkit.report.objective_metric import Objective
from bnkit.report.paper.difference_rows import DifferenceRow

_WIDTH, _CURVES = 380, 170
_LEFT, _RIGHT, _TOP = 44, 10, 24
# The approximate width of a letter.
_LETTER = 6.2
_WIDEST_LABELS, _MOST_ROWS = 170, 12
_GREY = "rgba(128,128,128,.35)"


@dataclass(frozen=True)
class _Axis:
    """Maps a value to its position in a picture.

    Attributes:
        low, high: The values at its ends.
        start, end: The positions of these values.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"


def curves_svg(curves: Sequence[Curve], y: str, *, is_share: bool) -> Markup:
    """A line for each network over the epochs: the mean over the seeds, in a band from the lowest to the highest."""
    values = [value for curve in curves for value in (*curve.low, *curve.high) if math.isfinite(value)]
    epochs = [epoch for curve in curves for epoch in curve.epochs]
    if not values:
        return Markup()
    low, high = (0.0, 1.0) if is_share else _room(min(values), max(values))
    legend, legend_lines = _legend([(curve.network, curve.colour) for curve in curves])
    top = _TOP + 16 * legend_lines
    bottom = top + _CURVES
    across = _Axis(*_apart(min(epochs), max(epochs)), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(low, high, bottom, top)
    parts = [
        _text(0, 12, y),
        *legend,
        *(_tick_up(up(tick), _number(tick)) for tick in _ticks(low, high)),
        *(_tick_across(across(tick), f"{tick:.0f}", bottom) for tick in _whole(min(epochs), max(epochs))),
        *(part for curve in curves for part in _curve(curve, across, up)),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 32, "epoch", "middle"),
    ]
    return _svg(f"{y} over the epochs", bottom + 36, parts)


def differences_svg(rows: Sequence[DifferenceRow], networks: Sequence[str], objective: Objective) -> Markup:
    """A square for each mean difference on its 95 % interval; thin line: new examples; dashed line: no difference."""
    if not rows:
        return Markup()
    shown, scale = rows[:_MOST_ROWS], 100 if objective.is_accuracy else 1
    ends = [
        scale * end
        for row in shown
        for interval in (row.interval, row.new_examples)
        if interval is not None
        for end in (interval.mean, interval.low, interval.high)
        if end is not None
    ]
    low, high = _room(min(0.0, *ends), max(0.0, *ends))
    labels = max(_LETTER * len(row.label) for row in shown)
    inline = labels < _WIDEST_LABELS  # longer labels are placed above their rows
    across = _Axis(low, high, labels + 12 if inline else 8, _WIDTH - _RIGHT)
    row_height = 22 if inline else 34
    bottom = _TOP + row_height * len(shown)
    unit = " (points)" if objective.is_accuracy else ""
    pairs = {f": {row.network} − {row.baseline}" for row in rows}
    title = f"difference in {objective.title}{unit}{pairs.pop() if len(pairs) == 1 else ''}"
    parts = [
        *(_tick_across(across(tick), _number(tick), bottom, _TOP) for tick in _ticks(low, high)),
        Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" stroke="#888888" stroke-dasharray="4 3"/>').format(
            across(0), _TOP, bottom
        ),
        *(
            part
            for index, row in enumerate(shown)
            for part in _difference(
                row, colour_among(networks, row.network), across, _TOP + row_height * (index + 1), scale
            )
        ),
        *(_text(0, _TOP + row_height * index + (15 if inline else 13), row.label) for index, row in enumerate(shown)),
        _text(0, 12, title),
    ]
    remarks = [f"… and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
    if any(row.new_examples is not None for row in shown):
        remarks.append("thick: for these test examples; thin: for new ones")
    parts += [_text(0, bottom + 34 + 15 * line, remark) for line, remark in enumerate(remarks)]
    return _svg(title, bottom + 24 + 15 * len(remarks), parts)


def _curve(curve: Curve, across: _Axis, up: _Axis) -> Iterator[Markup]:
    colour = _visible(curve.colour)
    there = [f"{across(x)},{up(y)}" for x, y in zip(curve.epochs, curve.high, strict=True)]
    back = [f"{across(x)},{up(y)}" for x, y in zip(curve.epochs, curve.low, strict=True)]
    line = [f"{across(x)},{up(y)}" for x, y in zip(curve.epochs, curve.mean, strict=True)]
    yield Markup('<polygon class="ink" points="{}" fill="{}" fill-opacity=".18"/>').format(
        " ".join([*there, *reversed(back)]), colour
    )
    yield Markup('<polyline class="ink" points="{}" fill="none" stroke="{}" stroke-width="2"/>').format(
        " ".join(line), colour
    )
    if len(line) == 1:  # a single point makes no line
        x, y = line[0].split(",")
        yield Markup('<circle class="ink" cx="{}" cy="{}" r="4" fill="{}"/>').format(x, y, colour)


def _difference(row: DifferenceRow, colour: str, across: _Axis, bottom: int, scale: int) -> Iterator[Markup]:
    colour, middle = _visible(colour), bottom - 11
    for interval, width in ((row.interval, 4), (row.new_examples, 1.2)):
        if interval is not None and interval.low is not None and interval.high is not None:
            yield Markup(
                '<line class="ink" x1="{0}" x2="{1}" y1="{3}" y2="{3}" stroke="{2}" stroke-width="{4}"/>'
            ).format(across(scale * interval.low), across(scale * interval.high), colour, middle, width)
    yield Markup('<rect class="ink" x="{}" y="{}" width="9" height="9" fill="{}"/>').format(
        f"{float(across(scale * row.interval.mean)) - 4.5:.1f}", middle - 4.5, colour
    )


def _legend(entries: Sequence[tuple[str, str]]) -> tuple[list[Markup], int]:
    """The legend (each network with its colour) and the number of its lines."""
    parts: list[Markup] = []
    x, line = 0.0, 0
    for network, colour in entries:
        width = 30 + _LETTER * len(network)
        if x > 0 and x + width > _WIDTH:
            x, line = 0.0, line + 1
        y = 28 + 16 * line
        parts += [
            Markup('<rect class="ink" x="{}" y="{}" width="9" height="9" fill="{}"/>').format(
                x, y - 8, _visible(colour)
            ),
            _text(x + 14, y, network),
        ]
        x += width
    return parts, line + 1


def _svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {0} {1}" width="{0}" height="{1}" '
        'font-family="sans-serif" font-size="11"><title>{2}</title>{3}</svg>'
    ).format(_WIDTH, height, title, Markup().join(parts))


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    """A text, in smaller letters if it would be wider than the picture."""
    share = _WIDTH / max(_LETTER * len(text), 1)
    style = Markup("") if share >= 1 else Markup(' style="font-size: {}px"').format(f"{11 * share:.1f}")
    return Markup('<text x="{}" y="{}" text-anchor="{}" fill="currentColor"{}>{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, style, text
    )


def _tick_up(y: str, text: str) -> Markup:
    line = Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" stroke="{3}"/>').format(_LEFT, _WIDTH - _RIGHT, y, _GREY)
    return line + _text(_LEFT - 6, float(y) + 4, text, "end")


def _tick_across(x: str, text: str, bottom: float, top: float | None = None) -> Markup:
    line = Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" stroke="{3}"/>').format(
        x, bottom if top is None else top, bottom + 4, _GREY
    )
    return line + _text(float(x), bottom + 16, text, "middle")


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between ``low`` and ``high``."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _whole(low: float, high: float) -> list[float]:
    return sorted({float(round(tick)) for tick in _ticks(*_apart(low, high)) if low <= round(tick) <= high} | {low})


def _room(low: float, high: float) -> tuple[float, float]:
    """The ends with a little room around them."""
    low, high = _apart(low, high)
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends, moved apart if they are equal."""
    half = max(abs(low), 1.0) / 2
    return (low, high) if high > low else (low - half, high + half)


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−") if value else "0"


def _visible(colour: str) -> str:
    """The colour, with black replaced: it would be invisible on a dark page."""
    return "currentColor" if colour == "#000000" else colour
