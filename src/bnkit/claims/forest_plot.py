"""All effects of a table of verdicts in one picture, in units of the smallest effect that matters. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

# The picture's width, in its own units.
_WIDTH = 100.0
_TICKS = (1, 10, 100, 1000)


def forest_plot(claims: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The positions in the picture of those ``claims`` of ``claims.json`` that have an effect.

    Position 0 means no effect, position 1 the smallest effect that matters, for every unit. The axis is linear near 0 and logarithmic
    further out (asinh), so that a tenth and a thousand times the smallest effect that matters fit in one picture.
    """
    known = [claim for claim in claims if claim["mean"] is not None]
    rows = [_in_units(claim) for claim in known]
    ends = [abs(value) for row in rows for value in (row["low"], row["mean"], row["high"])]
    reach = math.asinh(max([1.5, *ends]))

    def position(value: float) -> float:
        return round(_WIDTH / 2 * (1 + 0.96 * max(-1.0, min(1.0, math.asinh(value) / reach))), 2)

    values = [0, *(sign * tick for tick in _TICKS for sign in (-1, 1) if math.asinh(tick) <= reach)]
    return {
        "width": _WIDTH,
        "ticks": [(position(value), f"{value:+d}".replace("-", "−") if value else "0") for value in sorted(values)],
        "rows": [
            {
                "number": claim["number"],
                "hypothesis": claim["hypothesis"],
                "verdict": claim["verdict"],
                "class": claim["verdict"].replace(" ", "-"),
                "text": f"{claim['text']}, n = {claim['n']}",
                "low": position(row["low"]),
                "mean": position(row["mean"]),
                "high": position(row["high"]),
            }
            for claim, row in zip(known, rows, strict=True)
        ],
    }


def _in_units(claim: Mapping[str, Any]) -> dict[str, float]:
    nothing, unit = claim.get("nothing", 0.0), abs(claim["matters"]) or 1.0
    ends = {name: claim["mean"] if claim[name] is None else claim[name] for name in ("low", "mean", "high")}
    return {name: (value - nothing) / unit for name, value in ends.items()}
