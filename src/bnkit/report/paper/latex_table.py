"""A summary as LaTeX that fits a column of a paper and needs only the package booktabs. Needs no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import zip_longest

from bnkit.intervals.interval import Interval
from bnkit.report.contrasts.verdict import without_remedy
from bnkit.report.paper.paper_summary import Summary, SummaryRow, ends_text, setting_text

_ESCAPES = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # a straight quote needs the encoding T1
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "²": "$^2$",
    "³": "$^3$",
    "…": r"\dots{}",
    "†": r"$^\dagger$",
    "√": r"$\surd$",
    "\N{NO-BREAK SPACE}": "~",
}
# Spaces at which a line does not end: in "95 %" and "n = 5".
_TIES = re.compile(r"(?<=\d) (?=%)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)")


def escape(text: str) -> str:
    r"""``text`` escaped for LaTeX, also for pdfLaTeX.

    Examples:
        >>> escape("no_batch_norm, 95 % of β")
        'no\\_batch\\_norm, 95~\\% of $\\beta$'
    """
    tied = _TIES.sub("\N{NO-BREAK SPACE}", text)
    return "".join(
        _ESCAPES.get(character, character) if character.isascii() else _letter(character) for character in tied
    )


def latex(summary: Summary) -> str:
    r"""A ``table`` at the width of a column, with the answer as its caption. Intervals are below their figures.

    Its preamble needs ``\usepackage{booktabs}``.
    """
    titles = [
        *("network", *summary.keys, summary.objective.title, "n"),
        *(("failed",) if summary.has_failures else ()),
        "difference",
        *(("pairs",) if summary.has_fewer_pairs else ()),
    ]
    numbers = "r" * (len(titles) - 1)
    notes = "; ".join(escape(note) for note in summary.notes)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{2pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{escape(without_remedy(summary.headline))} {notes[:1].upper()}{notes[1:]}.}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9.-]+', '-', summary.name)}}}",
        rf"\begin{{tabular*}}{{\columnwidth}}{{@{{\extracolsep{{\fill}}}}l{numbers}@{{}}}}",
        r"\toprule",
        f"{' & '.join(map(_title, titles))} \\\\",
        r"\midrule",
        *(line for row in summary.rows for line in _lines(row, summary)),
        r"\bottomrule",
        r"\end{tabular*}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _lines(row: SummaryRow, summary: Summary) -> Iterator[str]:
    """The figures of a row, and below them their intervals."""
    objective, difference = summary.objective, row.difference
    cells = [
        (escape(row.network),),
        *((escape(setting_text(row, key)),) for key in summary.keys),
        _figure(row.mean, objective.text),
        (str(row.n),),
        *(((str(row.failed),),) if summary.has_failures else ()),
        ("--",) if difference is None else _figure(difference.interval, objective.change, difference.new_examples),
        *((("--" if row.pairs is None else str(row.pairs),),) if summary.has_fewer_pairs else ()),
    ]
    lines = [" & ".join(line) for line in zip_longest(*cells, fillvalue="")]
    yield from (f"{line} \\\\" for line in lines[:-1])
    yield f"{lines[-1]} \\\\[1pt]"


def _figure(
    interval: Interval | None, text: Callable[[float], str], further: Interval | None = None
) -> tuple[str, ...]:
    """A mean, and below it a line for each interval."""
    if interval is None:
        return ("--",)
    ends = [ends_text(each, text) for each in (interval, further)]
    return (escape(text(interval.mean)), *(rf"{{\scriptsize {escape(each)}}}" for each in ends if each != "–"))


def _title(text: str) -> str:
    """A title, broken into lines if it has several words, because the figures below it are narrower."""
    words = [escape(word) for word in text.split()]
    below_each_other = r"\\".join(words)
    return words[0] if len(words) == 1 else rf"\shortstack[r]{{{below_each_other}}}"


def _letter(character: str) -> str:
    """A non-ASCII character in LaTeX; pdfLaTeX has Greek letters in formulas only."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER ") and len(name.split()) == 4:
        return f"$\\{name.split()[-1].lower().replace('lamda', 'lambda')}$"
    return character
