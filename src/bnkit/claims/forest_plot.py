"""All effects of a table of verdicts in one picture, each in units of what would matter. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

# The picture's width, in its own units.
_WIDTH = 100.0
_TICKS = (1, 10, 100, 1000)


def forest_plot(claims: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where everything stands: from ``claims`` of ``claims.json``, those that have an effect.

    An effect of 0 is nothing, one of 1 the smallest that would matter, whatever it is told in. Near 0 the axis is even, further
    out logarithmic (asinh), so that effects of a tenth and of a thousand times what matters can be seen in one picture.
    """
    known = [claim for claim in claims if claim["mean"] is not None]
    rows = [_in_units(claim) for claim in known]
    ends = [abs(value) for row in rows for value in (row["low"], row["mean"], row["high"])]
    reach = math.asinh(max([1.5, *ends]))

    def place(value: float) -> float:
        return round(_WIDTH / 2 * (1 + 0.96 * max(-1.0, min(1.0, math.asinh(value) / reach))), 2)

    values = [0, *(sign * tick for tick in _TICKS for sign in (-1, 1) if math.asinh(tick) <= reach)]
    return {
        "width": _WIDTH,
        "ticks": [(place(value), f"{value:+d}".replace("-", "−") if value else "0") for value in sorted(values)],
        "rows": [
            {
                "number": claim["number"],
                "hypothesis": claim["hypothesis"],
                "verdict": claim["verdict"],
                "class": claim["verdict"].replace(" ", "-"),
                "text": f"{claim['text']}, n = {claim['n']}",
                "low": place(row["low"]),
                "mean": place(row["mean"]),
                "high": place(row["high"]),
            }
            for claim, row in zip(known, rows, strict=True)
        ],
    }


def _in_units(claim: Mapping[str, Any]) -> dict[str, float]:
    nothing, unit = claim.get("nothing", 0.0), abs(claim["matters"]) or 1.0
    ends = {name: claim["mean"] if claim[name] is None else claim[name] for name in ("low", "mean", "high")}
    return {name: (value - nothing) / unit for name, value in ends.items()}
