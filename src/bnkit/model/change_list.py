"""The changes made to a model, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, overload

from torch import nn

from bnkit.notebook_html import output, paragraph, wide
from bnkit.text_table import Column, Table


@dataclass(frozen=True)
class Change:
    """What was changed in one module, or why it was kept.

    Attributes:
        site: The dotted name of the module.
        action: One word: "added", "removed", "converted", "folded", "frozen"; "kept" if it was not changed.
        detail: One line: what the module became, or why it was kept.
    """

    site: str
    action: str
    detail: str

    @property
    def is_made(self) -> bool:
        """Whether something was changed."""
        return self.action != UNCHANGED


UNCHANGED = "kept"


class Changes(Sequence[Change]):
    """A list of changes: prints as a table, converts to JSON, and holds the error of the outputs.

    Args:
        entries: The changes, in the order of the model.
        error: The largest difference between the outputs before and after on the example, divided by the largest
            magnitude of the outputs before; None if they are not meant to be equal, or hold no floating-point numbers.
    """

    def __init__(self, entries: Sequence[Change], error: float | None = None) -> None:
        self._entries = tuple(entries)
        self.error = error

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> Changes: ...
    def __getitem__(self, index: int | slice) -> Change | Changes:
        return Changes(self._entries[index], self.error) if isinstance(index, slice) else self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def made(self) -> tuple[Change, ...]:
        """The entries that were changed."""
        return tuple(change for change in self._entries if change.is_made)

    @property
    def kept(self) -> tuple[Change, ...]:
        """The entries that were kept, and why."""
        return tuple(change for change in self._entries if not change.is_made)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"changes": [asdict(change) for change in self._entries], "error": self.error}

    def rows(self) -> Table:
        """A row for each change."""
        return Table(
            (Column("site", is_text=True), "action", Column.of_sentences("detail")),
            [(change.site or "(the model)", change.action, change.detail) for change in self._entries],
        )

    @property
    def summary(self) -> str:
        """The numbers of changed and kept entries, and the error, in one line."""
        error = "" if self.error is None else f"; outputs differ by {self.error:.1e} of their largest magnitude"
        return f"{len(self.made)} changed, {len(self.kept)} kept{error}"

    def __str__(self) -> str:
        return f"{self.rows()}\n{self.summary}"

    def _repr_html_(self) -> str:
        return f"{output(wide(self.rows()))}{paragraph(self.summary)}"

    def __repr__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changes) and (self._entries, self.error) == (other._entries, other.error)

    __hash__ = None  # type: ignore[assignment]


class Changed(NamedTuple):
    """A changed copy of a model, and the changes.

    Attributes:
        model: A copy of the model given, changed.
        changes: What was changed, and what was kept and why.
    """

    model: nn.Module
    changes: Changes
