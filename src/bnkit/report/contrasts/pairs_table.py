"""The table of every network against every other. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from bnkit.intervals.interval import Conclusion
from bnkit.report.contrasts.contrast import Contrast
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table

PAIRS_TITLE = "Every network against every other, each at its best learning rate"
_WORDS = {
    Conclusion.GAIN: "better",
    Conclusion.LOSS: "worse",
    Conclusion.NOTHING: "no difference",
    Conclusion.UNKNOWN: "cannot be said",
}


def pairs_table(contrasts: Sequence[Contrast]) -> dict[str, Table]:
    """The table by its title: a row for each pair and setting; empty if each architecture has only one pair."""
    if not any(contrast.pairs > 1 for contrast in contrasts):
        return {}
    settings = tuple(dict.fromkeys(key for contrast in contrasts for key in contrast.setting))
    new = any(contrast.best is not None and contrast.best.test_new_examples is not None for contrast in contrasts)
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
            *(Column(title, 3 if new else 1, below=True) for title in ("from", "to")),
            *(Column(title, 1, below=True) for title in ("new from", "new to") if new),
        ),
        *(Column("n", 4), Column("so it is", below=True)),
    )
    rows = [_row(contrast, settings, new=new) for contrast in contrasts]
    note = "from, to: the 95 % interval for these test examples; new from, new to: for new ones" if new else ""
    return {PAIRS_TITLE: Table(columns, rows, PAIRS_TITLE, note)}


def _row(contrast: Contrast, settings: Sequence[str], *, new: bool) -> tuple[str, ...]:
    values = (format_setting(contrast.setting[key]) if key in contrast.setting else "–" for key in settings)
    names, best, change = (contrast.network, contrast.baseline, *values), contrast.best, contrast.objective.change
    if best is None or best.test is None:
        return (*names, *("–",) * (8 if new else 6), _WORDS[Conclusion.UNKNOWN])
    test, wider = best.test, best.test_new_examples
    of_new = ((None, None) if wider is None else (wider.low, wider.high)) if new else ()
    ends = ("–" if end is None else change(end) for end in (test.low, test.high, *of_new))
    verdict = "neither learned" if best.neither_learned else _WORDS[contrast.verdict]
    rates = format_setting(best.network_lr), format_setting(best.baseline_lr)
    return (*names, *rates, change(test.mean), *ends, str(test.n), verdict)
