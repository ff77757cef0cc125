"""The verdicts as one HTML page, complete in itself. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bnkit.claims import PAGES, Decision
from bnkit.claims.forest_plot import forest_plot

# Half the width of a row's picture, in its own units; zero is in the middle.
_HALF_WIDTH = 100.0


def claims_page(content: Mapping[str, Any], designs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The answer, all effects in one picture, a row for each hypothesis with its interval, and what was trained.

    Args:
        content: What ``claims.json`` holds.
        designs: The designs that were trained: name, about, networks, epochs, claims, runs, minutes, tables,
            report (a relative path, or None), load (a sentence, or None).
    """
    environment = Environment(
        loader=PackageLoader("bnkit.claims", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    answer, end, caveat = content["answer"].partition(". ")
    counts = Counter(claim["verdict"] for claim in content["claims"])
    return environment.get_template("claims_page.html.j2").render(
        answer=answer + end,
        caveat=caveat,
        pages=PAGES,
        counts=[(decision.value, _class(decision.value), counts[decision.value]) for decision in Decision],
        rows=[{**claim, "class": _class(claim["verdict"]), "picture": _picture(claim)} for claim in content["claims"]],
        forest_plot=forest_plot(content["claims"]),
        designs=[{"load": None, **design} for design in designs],
        designs_of={number: design["name"] for design in designs for number in design["claims"]},
        folder=content.get("folder", ""),
        command=content.get("command", ""),
        environment=[(key.replace("_", " "), value) for key, value in content["environment"].items()],
        style=resources.files("bnkit.report").joinpath("page.css").read_text(encoding="utf-8"),
    )


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _picture(claim: Mapping[str, Any]) -> dict[str, Any] | None:
    """The positions of the mean, its interval, every seed and the smallest effect that matters; zero is in the middle."""
    mean, seeds = claim["mean"], list(claim["effects"].values())
    if mean is None:
        return None
    low, high = (mean if claim[end] is None else claim[end] for end in ("low", "high"))
    reach = max(abs(low), abs(high), abs(claim["matters"]), *map(abs, seeds)) or 1.0

    def position(value: float) -> float:
        return round(_HALF_WIDTH * (1 + 0.94 * value / reach), 1)

    return {
        "low": position(low),
        "high": position(high),
        "mean": position(mean),
        "matters": position(claim["matters"]),
        "seeds": [position(value) for value in seeds],
    }
