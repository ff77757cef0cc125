"""The verdicts as one HTML page, complete in itself. Needs no torch."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bnkit.experiments.claims import Finding

if TYPE_CHECKING:
    from bnkit.report.verdicts import Asked, Verdicts

# Of a row's picture, in its own units: the zero line in the middle.
_HALF_WIDTH = 100.0


def claims_page(verdicts: Verdicts) -> str:
    """The answer, and a row for each hypothesis with its interval drawn: right of the middle speaks for the claim."""
    environment = Environment(
        loader=PackageLoader("bnkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("claims.html.j2").render(
        answer=verdicts.answer,
        counts=[(finding.value, _class(finding), verdicts.count(finding)) for finding in Finding],
        rows=[_row(asked, verdicts.seeds) for asked in verdicts.asked],
        command=verdicts.command,
        facts=[(key.replace("_", " "), value) for key, value in verdicts.facts.items()],
        style=resources.files("bnkit.report").joinpath("page.css").read_text(encoding="utf-8"),
    )


def _class(finding: Finding) -> str:
    return finding.value.replace(" ", "-")


def _row(asked: Asked, seeds: int) -> dict[str, Any]:
    claim = asked.claim
    return {
        "number": claim.number,
        "statement": claim.statement,
        "said_by": claim.said_by,
        "hypothesis": claim.hypothesis,
        "verdict": asked.judged.finding.value,
        "class": _class(asked.judged.finding),
        "why": asked.why,
        "effect": asked.effect,
        "n": len(asked.effects),
        "budget": asked.budget(seeds),
        "picture": _picture(asked),
    }


def _picture(asked: Asked) -> dict[str, Any] | None:
    """Where the mean, its interval, every seed, and what matters stand, in a picture whose middle is nothing."""
    interval = asked.judged.effect
    if interval is None:
        return None
    low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
    reach = max(abs(low), abs(high), abs(asked.claim.matters), *map(abs, asked.effects.values())) or 1.0

    def place(value: float) -> float:
        return round(_HALF_WIDTH * (1 + 0.94 * value / reach), 1)

    return {
        "low": place(low),
        "high": place(high),
        "mean": place(interval.mean),
        "matters": place(asked.claim.matters),
        "seeds": [place(value) for value in asked.effects.values()],
    }
