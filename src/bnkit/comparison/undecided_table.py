"""The state of each contrast while seeds are added, a line for each. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection

from bnkit.experiments.until_settings import ContrastLooks, StoppingRule
from bnkit.report.objective_metric import Objective
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table


def looks_table(contrasts: Collection[ContrastLooks], rule: StoppingRule, objective: Objective) -> Table:
    """A row for each contrast with a look: pairs, difference, interval, margin, and the verdict so far."""
    looked_at = [contrast for contrast in contrasts if contrast.looks]
    several = len({contrast.baseline for contrast in looked_at}) > 1
    settings = tuple(dict.fromkeys(key for contrast in looked_at for key in contrast.setting))
    columns = (
        Column("network", is_text=True),
        *((Column("against", 1, is_text=True),) if several else ()),
        *(Column(key, 1) for key in settings),
        *(Column("n"), Column("points" if objective.is_accuracy else "difference", 2), Column("95 % interval")),
        *(Column("margin", 3), Column("so far", is_text=True)),
    )
    return Table(columns, [_row(contrast, rule, objective, several, settings) for contrast in looked_at])


def _row(
    contrast: ContrastLooks, rule: StoppingRule, objective: Objective, several: bool, settings: Collection[str]
) -> tuple[str, ...]:
    last = contrast.looks[-1]
    change = objective.change
    return (
        contrast.network,
        *((contrast.baseline,) if several else ()),
        *(format_setting(contrast.setting.get(key)) for key in settings),
        str(last.pairs),
        change(last.mean),
        "–" if last.low is None or last.high is None else f"[{change(last.low)}, {change(last.high)}]",
        objective.size(margin) if (margin := rule.largest_trifle(is_accuracy=objective.is_accuracy)) else "–",
        verdict_in_words(contrast, rule, objective),
    )


def describe_look(contrast: ContrastLooks, rule: StoppingRule, objective: Objective) -> str:
    """The last look as one line of a log."""
    last = contrast.looks[-1]
    where = "".join(f", {key} {format_setting(value)}" for key, value in contrast.setting.items())
    unit = " points" if objective.is_accuracy else ""
    change = objective.change
    ends = "" if last.low is None or last.high is None else f", 95 % interval [{change(last.low)}, {change(last.high)}]"
    return (
        f"{contrast.network} against {contrast.baseline}{where}: {change(last.mean)}{unit}{ends}, n = {last.pairs}: "
        f"{verdict_in_words(contrast, rule, objective)}"
    )


def verdict_in_words(contrast: ContrastLooks, rule: StoppingRule, objective: Objective) -> str:
    """One of "gain", "loss", "under 1 point", "no difference" and "open"."""
    verdict = contrast.looks[-1].verdict
    if verdict == "nothing":
        margin = rule.largest_trifle(is_accuracy=objective.is_accuracy)
        return f"under {objective.size(margin)}" if margin else "no difference"
    return "open" if verdict == "unknown" else verdict
