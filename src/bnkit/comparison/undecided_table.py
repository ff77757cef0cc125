"""The state of each contrast while seeds are added, a line for each. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection

from bnkit.experiments.until_settings import ContrastLooks, Look, StoppingRule
from bnkit.report.objective_metric import Objective
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table


def looks_table(contrasts: Collection[ContrastLooks], rule: StoppingRule, objective: Objective) -> Table:
    """A row for each contrast with a look: pairs, difference, interval, margin, and the verdict so far.

    The title of the intervals says for which test examples they are; each row does, if they differ.
    """
    looked_at = [contrast for contrast in contrasts if contrast.looks]
    several = len({contrast.baseline for contrast in looked_at}) > 1
    settings = tuple(dict.fromkeys(key for contrast in looked_at for key in contrast.setting))
    examples = {contrast.looks[-1].examples for contrast in looked_at}
    interval = f"95 % interval, {min(examples)} examples" if len(examples) == 1 else "95 % interval"
    columns = (
        Column("network", is_text=True),
        *((Column("against", 1, is_text=True),) if several else ()),
        *(Column(key, 1) for key in settings),
        *(Column("n"), Column("points" if objective.is_accuracy else "difference", 2), Column(interval)),
        *(Column("margin", 3), Column("so far", is_text=True)),
    )
    rows, margin = [], rule.largest_trifle(is_accuracy=objective.is_accuracy)
    for contrast in looked_at:
        last, ends = contrast.looks[-1], _ends(contrast.looks[-1], objective)
        rows.append((
            contrast.network,
            *((contrast.baseline,) if several else ()),
            *(format_setting(contrast.setting.get(key)) for key in settings),
            *(str(last.pairs), objective.change(last.mean)),
            f"{ends or '–'}{f' {last.examples}' if ends and len(examples) > 1 else ''}",
            objective.size(margin) if margin else "–",
            verdict_in_words(contrast, rule, objective),
        ))  # fmt: skip
    return Table(columns, rows)


def _ends(look: Look, objective: Objective) -> str:
    """The ends of the interval in brackets; empty if it has none."""
    if look.low is None or look.high is None:
        return ""
    return f"[{objective.change(look.low)}, {objective.change(look.high)}]"


def describe_look(contrast: ContrastLooks, rule: StoppingRule, objective: Objective) -> str:
    """The last look as one line of a log."""
    last = contrast.looks[-1]
    where = "".join(f", {key} {format_setting(value)}" for key, value in contrast.setting.items())
    unit = " points" if objective.is_accuracy else ""
    ends = _ends(last, objective)
    interval = f", 95 % interval for {last.examples} test examples {ends}" if ends else ""
    return (
        f"{contrast.network} against {contrast.baseline}{where}: {objective.change(last.mean)}{unit}{interval}, n = {last.pairs}: "
        f"{verdict_in_words(contrast, rule, objective)}"
    )


def verdict_in_words(contrast: ContrastLooks, rule: StoppingRule, objective: Objective) -> str:
    """One of "gain", "loss", "under 1 point", "no difference" and "open"."""
    verdict = contrast.looks[-1].verdict
    if verdict == "nothing":
        margin = rule.largest_trifle(is_accuracy=objective.is_accuracy)
        return f"under {objective.size(margin)}" if margin else "no difference"
    return "open" if verdict == "unknown" else verdict
