"""Tables as values, and their layout for a width: the only module that sets text in columns. Loads Rich only to print with it.

If a table is too wide, columns of sentences are wrapped; then the least important columns are left out, or set below their
rows. Lines are broken between words only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP, _INDENT = "  ", "    "
# A narrower column of sentences is hard to read, and goes below the rows.
_NARROWEST_SENTENCES = 24
# From the second on there is no limit, as in a pipe; then sentences, which would be padded, are wrapped towards the first.
_NATURAL_WIDTH, UNLIMITED = 120, 100_000
# "n = 5" stays together.
_BETWEEN_WORDS = re.compile(r"(?<!=)\s+(?!=\s)")
_NUMBER = re.compile(r"–|[-−+]?(nan|inf|[\d,.]+(e[-+]?\d+)?)( ?%)?")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: The heading.
        priority: 0: always shown. The others are shown if there is room, the lowest number first.
        wraps: Whether its cells are sentences, which are broken between words.
        below: Whether its cells are set below their rows if there is no room in the row, together with those of other such
            columns of its priority; otherwise they are left out.
        width: The least width.
        is_text: Whether its cells are aligned to the left even if all look like numbers.
    """

    title: str
    priority: int = 0
    wraps: bool = False
    below: bool = False
    width: int = 0
    is_text: bool = False

    @classmethod
    def of_sentences(cls, title: str, priority: int = 1) -> Column:
        """A column whose cells are wrapped, or set below their rows."""
        return cls(title, priority, wraps=True, below=True)


class Table:
    """Rows of texts under the titles of their columns; ``header, rows = table`` takes it apart.

    Args:
        columns: The columns, or their titles; without any, the table has no lines.
        rows: A text for each column. Line breaks in a text are kept.
        title: What the table shows.
        note: A sentence about the table.
    """

    def __init__(
        self, columns: Iterable[Column | str], rows: Iterable[Sequence[str]], title: str = "", note: str = ""
    ) -> None:
        self.columns = tuple(Column(column) if isinstance(column, str) else column for column in columns)
        self.rows = [tuple(row) for row in rows]
        self.title, self.note = title, note

    @property
    def header(self) -> tuple[str, ...]:
        """The titles of the columns."""
        return tuple(column.title for column in self.columns)

    def __iter__(self) -> Iterator[Any]:
        yield self.header
        yield self.rows

    def titled(self, title: str, note: str = "") -> Table:
        """The same table with another title."""
        return Table(self.columns, self.rows, title, note)

    def first(self, count: int, where_others_are: str) -> Table:
        """The first ``count`` rows; the note says how many were left out, and where to find them."""
        left_out = len(self.rows) - count
        if left_out <= 0:
            return self
        return Table(self.columns, self.rows[:count], self.title, f"… {left_out:,} more: {where_others_are}")

    def is_number(self, index: int) -> bool:
        """Whether a column has cells and all are numbers, which are aligned to the right."""
        is_text = self.columns[index].is_text or not self.rows
        return not is_text and all(_NUMBER.fullmatch(row[index]) for row in self.rows)

    def lines(self, width: int | None = None) -> Iterator[tuple[int, str]]:
        """The lines of the table for ``width`` columns of characters (None: the natural width, with every column).

        Each with the number of its row; −1 for the header.
        """
        widths = self._widths(width)
        right = [self.is_number(index) for index in range(len(self.columns))]

        def aligned(row: Sequence[str], *, from_bottom: bool = False) -> Iterator[str]:
            cells = [wrap(row[index], own) for index, own in widths.items()]
            if from_bottom:
                height = max(map(len, cells))
                cells = [[""] * (height - len(cell)) + cell for cell in cells]
            for parts in zip_longest(*cells, fillvalue=""):
                padded = (_pad(part, own, right[i]) for part, (i, own) in zip(parts, widths.items(), strict=True))
                yield _GAP.join(padded).rstrip()

        if any(self.header):
            yield from ((-1, line) for line in aligned(self.header, from_bottom=True))
        for number, row in enumerate(self.rows):
            yield from ((number, line) for line in aligned(row))
            room = None if width is None else width - len(_INDENT)
            for text in self._below(row, widths, room):
                yield from ((number, _INDENT + line) for line in wrap(text, room))

    def left_out(self, width: int) -> list[str]:
        """The titles of the columns that do not fit into ``width``, neither in the rows nor below them."""
        shown = self._widths(width)
        hidden = (column for i, column in enumerate(self.columns) if i not in shown and not column.below)
        return [column.title for column in hidden if column.title]

    def __str__(self) -> str:
        return "\n".join([*([self.title] if self.title else []), *(line for _, line in self.lines())])

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.control import strip_control_codes
        from rich.segment import Segment

        width = options.max_width
        left_out = self.left_out(width)
        hidden = f"without {', '.join(left_out)}: a wider terminal, or a pipe, shows {'it' if len(left_out) == 1 else 'them'}"
        styled = [
            *((line, "italic") for line in wrap(self.title, width) if self.title),
            *((line, "bold" if number < 0 else "") for number, line in self.lines(width)),
            *((line, "") for line in wrap(self.note, width) if self.note),
            *((line, "dim") for line in wrap(hidden, width) if left_out),
        ]
        for line, style in styled:
            yield Segment(strip_control_codes(line), console.get_style(style) if style else None)
            yield Segment.line()

    def to_html(self) -> str:
        """The table as HTML, for a notebook."""
        sides = ["right" if self.is_number(index) else "left" for index in range(len(self.columns))]

        def row(tag: str, cells: Sequence[str]) -> str:
            return "".join(
                f"<{tag} style='text-align:{side};vertical-align:top'>{html.escape(cell).replace(chr(10), '<br>')}</{tag}>"
                for cell, side in zip(cells, sides, strict=True)
            )

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
        return f"<table>{caption}<thead><tr>{row('th', self.header)}</tr></thead><tbody>{body}</tbody></table>"

    _repr_html_ = to_html

    def to_markdown(self) -> str:
        """The table as Markdown."""
        rules = ["---:" if self.is_number(index) else "---" for index in range(len(self.columns))]
        lines = [self.header, rules, *self.rows] if self.columns else []
        return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |" for row in lines)

    def to_json(self) -> dict[str, Any]:
        """The table as plain values."""
        return {
            "title": self.title,
            "header": list(self.header),
            "rows": [list(r) for r in self.rows],
            "note": self.note,
        }

    def _below(self, row: Sequence[str], shown: dict[int, int], room: int | None) -> Iterator[str]:
        """The texts that go below a row: one for each column of sentences, and as many of the others together as fit."""
        together = ""
        is_alone = sum(column.below and column.wraps for column in self.columns) == 1
        for index, column in enumerate(self.columns):
            if column.below and index not in shown and row[index] not in ("", "–"):
                text = f"{column.title}: {row[index]}" if column.title else row[index]
                if column.wraps:
                    yield row[index] if is_alone else text
                elif together and (room is None or _length(together) + 2 + _length(text) <= room):
                    together += f", {text}"
                else:
                    yield from [together] if together else []
                    together = text
        yield from [together] if together else []

    def _widths(self, room: int | None) -> dict[int, int]:
        """The widths of the columns that are shown, by number."""
        indices = range(len(self.columns))
        cells = [[line for row in self.rows for line in row[index].split("\n")] for index in indices]
        content = [max(map(_length, column), default=0) for column in cells]
        full = [max(content[i], _length(column.title), column.width) for i, column in enumerate(self.columns)]
        if room is not None and sum(full) + len(_GAP) * (len(full) - 1) <= room < UNLIMITED:
            return dict(enumerate(full))
        words = [max((_length(word) for text in column for word in text.split()), default=0) for column in cells]
        least = []
        for index, column in enumerate(self.columns):
            needed = max(words[index], min(content[index], _NARROWEST_SENTENCES)) if column.wraps else content[index]
            least.append(max(needed, *map(_length, column.title.split() or [""]), column.width))
        if room is None or room >= UNLIMITED:
            return self._natural_widths(full, least)
        shown: set[int] = set()
        left = room + len(_GAP)
        # Columns that go below the rows are moved together.
        for group in _groups(self.columns):
            needed = sum(least[index] + len(_GAP) for index in group)
            if self.columns[group[0]].priority == 0 or needed <= left:
                shown.update(group)
                left -= needed
        widths = {index: least[index] for index in sorted(shown)}
        while left > 0 and (longer := [i for i in widths if self.columns[i].wraps and widths[i] < full[i]]):
            widths[max(longer, key=lambda index: full[index] - widths[index])] += 1
            left -= 1
        for index, own in widths.items():  # titles in one line, if there is room
            if 0 < full[index] - own <= left:
                widths[index], left = full[index], left - full[index] + own
        # Still too wide: break other texts between words, too, and long names after a dot or a slash.
        words_only = [i for i in widths if left < 0 and not self.is_number(i)]
        pieces = {
            i: max((_length(piece) for text in cells[i] for piece in _pieces(text)), default=0) for i in words_only
        }
        while left < 0 and (wider := {i: widths[i] for i in words_only if widths[i] > pieces[i]}):
            widths[max(wider, key=wider.__getitem__)] -= 1
            left += 1
        return widths

    def _natural_widths(self, full: Sequence[int], least: Sequence[int]) -> dict[int, int]:
        """The widths of all columns without a limit: of sentences, those before the last column are wrapped."""
        widths, padded = list(full), [index for index, column in enumerate(self.columns[:-1]) if column.wraps]
        is_last_wrapped = any(column.wraps for column in self.columns[-1:])
        last = sum((least if is_last_wrapped else full)[-1:])  # is not padded
        excess = sum(full[:-1]) + last + len(_GAP) * (len(full) - 1) - _NATURAL_WIDTH
        while excess > 0 and (longer := [index for index in padded if widths[index] > least[index]]):
            widths[max(longer, key=widths.__getitem__)] -= 1
            excess -= 1
        return dict(enumerate(widths))


def wrap(text: str, width: int | None, hanging: str = "") -> list[str]:
    """The lines of ``text``, broken between words into at most ``width`` columns of characters where possible.

    Args:
        text: Its own line breaks are kept.
        width: None for no limit.
        hanging: The prefix of the continuation lines of each line of the text.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        if width is None or _length(paragraph) <= width:
            lines.append(paragraph)
            continue
        start = paragraph[: len(paragraph) - len(paragraph.lstrip())]
        line, is_empty = start, True
        for word in _BETWEEN_WORDS.split(paragraph.strip()):
            for number, piece in enumerate([word] if _length(word) <= width else _pieces(word)):
                space = "" if is_empty or number > 0 else " "
                if not is_empty and _length(line + space + piece) > width:
                    lines.append(line)
                    line, space = start + hanging, ""
                line, is_empty = line + space + piece, False
        lines.append(line)
    return lines


def _groups(columns: Sequence[Column]) -> list[list[int]]:
    """The numbers of the columns, most important first; those that may go below are grouped by priority."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, column in enumerate(columns):
        groups.setdefault((column.priority, -1 if column.below else index), []).append(index)
    return [groups[key] for key in sorted(groups)]


def _pieces(text: str) -> list[str]:
    """The pieces into which a name may be broken: after a slash, or a dot before a letter."""
    return [piece for word in text.split() for piece in re.split(r"(?<=/)(?=.)|(?<=\.)(?=[A-Za-z_])", word)]


def _length(text: str) -> int:
    """The width of ``text`` in a terminal, in columns of characters."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * max(0, width - _length(text))
    return space + text if right else text + space
