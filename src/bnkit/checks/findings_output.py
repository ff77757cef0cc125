"""The findings of a check: a sequence that prints well in a terminal, a notebook and a build log. Needs no torch."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from bnkit.checks.finding import Finding, Severity
from bnkit.checks.sarif import sarif_log
from bnkit.message_parts import plural
from bnkit.notebook_html import output, wide
from bnkit.text_table import Column, Table

_COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
# A message and a remedy share a line if they fit in this width.
_SHORT = 100
# The number of further layers with the same finding that are named.
_NAMES = 4


class Findings(Sequence[Finding]):
    """The findings about a model, worst first: prints as a list, converts to JSON, shows as a table in a notebook.

    Args:
        entries: The findings, sorted.
        layers: The number of batch norms checked.
        not_checked: The codes of rules that were skipped, by their missing inputs.
        fixable: The codes of rules whose findings ``bnkit check --fix`` fixes.
        notes: Sentences about what was given and could not be used.

    Attributes:
        layers, not_checked, fixable, notes: As given.
    """

    def __init__(
        self,
        entries: Sequence[Finding],
        *,
        layers: int,
        not_checked: Mapping[str, Sequence[str]] | None = None,
        fixable: frozenset[str] = frozenset(),
        notes: Sequence[str] = (),
    ) -> None:
        self._entries = tuple(entries)
        self.layers = layers
        self.not_checked = {need: tuple(codes) for need, codes in (not_checked or {}).items()}
        self.fixable = fixable
        self.notes = tuple(notes)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Findings: ...
    def __getitem__(self, index: int | slice) -> Finding | Findings:
        return self.only(self._entries[index]) if isinstance(index, slice) else self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Findings) and self._entries == other._entries

    __hash__ = None  # type: ignore[assignment]

    @property
    def codes(self) -> tuple[str, ...]:
        """The distinct codes, in order."""
        return tuple(sorted({finding.code for finding in self}))

    def of(self, code: str) -> Findings:
        """The findings of one rule."""
        return self.only([finding for finding in self if finding.code == code])

    def at_least(self, severity: Severity | str) -> Findings:
        """The findings at least as severe as ``severity``.

        Raises:
            ValueError: If there is no such severity.
        """
        rank = Severity(severity).rank
        return self.only([finding for finding in self if finding.severity.rank <= rank])

    @property
    def summary(self) -> str:
        """The number of findings of each severity, in a line."""
        counts = Counter(finding.severity for finding in self)
        parts = [plural(counts[severity], severity) for severity in Severity if counts[severity]]
        return f"{', '.join(parts) or 'nothing found'} in {plural(self.layers, 'layer')}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What could not be used, and the rules that were skipped."""
        skipped = (f"not checked without {need}: {', '.join(codes)}" for need, codes in self.not_checked.items())
        return *self.notes, *skipped

    @property
    def fixable_count(self) -> int:
        """The number of findings that ``apply_fixes`` can fix."""
        return sum(finding.code in self.fixable for finding in self)

    def to_json(self) -> list[dict[str, Any]]:
        """A list of dictionaries: code, severity, site, measured, limit, message, remedy; file and line if known."""
        return [finding.to_json() for finding in self]

    def to_github(self, file: str | None = None) -> str:
        """Workflow commands, a line for each finding, which GitHub shows next to the code.

        Args:
            file: The file that findings are shown at whose module has no known line.
        """
        kinds = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
        return "".join(
            f"::{kinds[finding.severity]} {_properties(finding, file)}::{_escaped(_plain_text(finding))}\n"
            for finding in self
        )

    def to_sarif(self, file: str | None = None) -> dict[str, Any]:
        """A log in the format SARIF 2.1.0, which GitHub's code scanning and editors read: plain values for ``json.dump``.

        Args:
            file: The file that findings are shown at whose module has no known line.
        """
        return sarif_log(self, self.remarks, file)

    def __str__(self) -> str:
        return "\n".join([*([str(self._table(self._groups()))] if self else []), self.summary])

    def __repr__(self) -> str:
        return str(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines(options.max_width)
        yield Text(self.summary)

    def _repr_html_(self) -> str:
        columns = ("severity", "code", Column("site", is_text=True), "finding", "remedy")
        rows = [(f.severity.value, f.code, _location(f), f.message, f.remedy) for f in self]
        table = output(wide(Table(columns, rows))) if self else ""
        remarks = "".join(f"<br>{html.escape(line)}" for line in self.remarks)
        return f"{table}<p>{html.escape(self.summary)}{remarks}</p>"

    def lines(self, width: int | None = None) -> Iterator[Text]:
        """A line or several for each finding, in colour, for a terminal of ``width``; equal findings of several layers are merged."""
        groups = self._groups()
        before = -1
        for number, line in self._table(groups).lines(width):
            text = Text(line, no_wrap=True, overflow="ignore")
            if number != before:
                severity, code = groups[number][0].severity, groups[number][0].code
                text.stylize(_COLOURS[severity], 0, len(severity))
                text.stylize("bold", line.index(code), line.index(code) + len(code))
            before = number
            yield text

    def _groups(self) -> list[list[Finding]]:
        """Groups of findings that are equal except for their place."""
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self:
            groups.setdefault((finding.severity, finding.code, finding.message, finding.remedy), []).append(finding)
        return list(groups.values())

    @staticmethod
    def _table(groups: Sequence[Sequence[Finding]]) -> Table:
        rows = [
            (
                first.severity.value,
                f"{first.code} {_location(first)}",
                "\n".join([*_message(first), *_also(first, others)]),
            )
            for first, *others in groups
        ]
        return Table(("", "", Column.of_sentences("")), rows)

    def only(self, entries: Sequence[Finding]) -> Findings:
        """A subset of these findings, from the same check."""
        return Findings(
            entries, layers=self.layers, not_checked=self.not_checked, fixable=self.fixable, notes=self.notes
        )

    def with_remedies(self, rewrite: Callable[[str], str]) -> Findings:
        """The same findings, their remedies in other words."""
        return self.only([replace(finding, remedy=rewrite(finding.remedy)) for finding in self])


def _also(first: Finding, others: Sequence[Finding]) -> list[str]:
    """The other layers with the same finding, and the lines that made all of them."""
    lines = [f"also: {_some([_location(finding) for finding in others])}"] if others else []
    sources = list(dict.fromkeys(finding.source for finding in (first, *others) if finding.source))
    return [*lines, f"made at {_some(sources)}"] if sources else lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def _location(finding: Finding) -> str:
    return finding.site or "(the model)"


def _message(finding: Finding) -> list[str]:
    lines = finding.message.splitlines()
    if len(lines) == 1 and len(lines[0]) + len(finding.remedy) < _SHORT:
        return [f"{lines[0]}; {finding.remedy}"]
    return [*lines, f"remedy: {finding.remedy}"]


def _plain_text(finding: Finding) -> str:
    return "\n".join([f"{_location(finding)}: {finding.message}", f"remedy: {finding.remedy}"])


def _properties(finding: Finding, file: str | None) -> str:
    location = {"file": finding.file or file, "line": None if finding.line is None else str(finding.line)}
    values = {**{key: value for key, value in location.items() if value is not None}, "title": finding.code}
    return ",".join(f"{key}={_escaped(value, in_property=True)}" for key, value in values.items())


def _escaped(text: str, *, in_property: bool = False) -> str:
    """Escape as GitHub's toolkit does: characters that end a command or a property become percent codes."""
    codes = {"%": "%25", "\r": "%0D", "\n": "%0A"} | ({":": "%3A", ",": "%2C"} if in_property else {})
    return "".join(codes.get(character, character) for character in text)
