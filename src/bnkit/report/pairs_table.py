"""The table of every network against every other. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from bnkit.report.contrast import Contrast
from bnkit.report.intervals import Conclusion
from bnkit.report.tables import format_setting
from bnkit.table import Column, Table

PAIRS_TITLE = "Every network against every other, each at its best learning rate"
_WORDS = {
    Conclusion.GAIN: "better",
    Conclusion.LOSS: "worse",
    Conclusion.NOTHING: "no difference",
    Conclusion.UNKNOWN: "cannot be said",
}


def pairs_table(contrasts: Sequence[Contrast]) -> dict[str, Table]:
    """The table by its title: a row for each pair and setting; none where each architecture has one pair."""
    if not any(contrast.pairs > 1 for contrast in contrasts):
        return {}
    settings = tuple(dict.fromkeys(key for contrast in contrasts for key in contrast.setting))
    unit = " (points)" if contrasts[0].objective.is_accuracy else ""
    columns = (
        *(
            Column("network", is_text=True),
            Column("against", is_text=True),
            *(Column(key, 2, below=True) for key in settings),
        ),
        *(
            Column("lr", 2, below=True),
            Column("its lr", 2, below=True),
            Column(f"difference{unit}"),
            Column("from", 1, below=True),
        ),
        *(Column("to", 1, below=True), Column("n", 3), Column("so it is", below=True)),
    )
    return {PAIRS_TITLE: Table(columns, [_row(contrast, settings) for contrast in contrasts], PAIRS_TITLE)}


def _row(contrast: Contrast, settings: Sequence[str]) -> tuple[str, ...]:
    values = (format_setting(contrast.setting[key]) if key in contrast.setting else "–" for key in settings)
    names, best, change = (contrast.network, contrast.baseline, *values), contrast.best, contrast.objective.change
    if best is None or best.test is None:
        return (*names, *("–",) * 6, _WORDS[Conclusion.UNKNOWN])
    test = best.test
    ends = ("–" if end is None else change(end) for end in (test.low, test.high))
    verdict = "neither learned" if best.neither_learned else _WORDS[contrast.objective.conclude(test, contrast.margin)]
    return (*names, f"{best.network_lr:g}", f"{best.baseline_lr:g}", change(test.mean), *ends, str(test.n), verdict)
