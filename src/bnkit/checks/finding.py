"""One thing that is wrong with a model, or worth knowing. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Plain = float | int | str | bool | None
Value = Plain | Mapping[str, Plain]


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # figures of this model are wrong, or training it will fail
    WARNING = "warning"  # something is lost that can be had
    NOTE = "note"  # worth knowing; a choice that can be meant

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """What a rule found at one place of a model.

    Attributes:
        code: Of the rule, as "BN101".
        severity: How bad it is.
        site: The dotted name of the module that it is about; empty for the model itself.
        measured: What was measured: a figure, a word, or several of them by name.
        limit: What it was held against, in the same form; None where it was a matter of yes or no.
        message: What is wrong, in a line; further lines say more.
        remedy: What to do, in a line.
        file, line: Where the module was made, in the user's code; None where that is not known.
    """

    code: str
    severity: Severity
    site: str
    measured: Value
    limit: Value
    message: str
    remedy: str
    file: str | None = None
    line: int | None = None

    @property
    def source(self) -> str:
        """``file:line``, as editors and terminals link it; empty where it is not known."""
        return "" if self.file is None else f"{self.file}:{self.line}"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; None where a figure is not finite. ``file`` and ``line`` only where they are known."""
        return {
            key: {name: _finite(entry) for name, entry in value.items()}
            if isinstance(value, Mapping)
            else _finite(value)
            for key, value in {**asdict(self), "severity": self.severity.value}.items()
            if value is not None or key not in ("file", "line")
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
