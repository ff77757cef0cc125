"""A single finding of the checker. Needs no torch."""

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

    ERROR = "error"  # the model's results are wrong, or training it will fail
    WARNING = "warning"  # avoidable loss of accuracy, speed or memory
    NOTE = "note"  # worth knowing; may be intended

    @property
    def rank(self) -> int:
        """0 for the most severe."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """A finding of a rule at one place of a model.

    Attributes:
        code: The code of the rule, such as "BN101".
        severity: How bad it is.
        site: The dotted name of the module; empty for the model itself.
        measured: What was measured: a figure, a word, or several of them by name.
        limit: The limit for ``measured``, in the same form; None for yes-or-no findings.
        message: What is wrong, in a line; further lines say more.
        remedy: What to do, in a line.
        file, line: The line in the user's code that made the module; None if unknown.
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
        """``file:line``, as editors and terminals link it; empty if unknown."""
        return "" if self.file is None else f"{self.file}:{self.line}"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain values; None for non-finite numbers. ``file`` and ``line`` only if they are known."""
        return {
            key: {name: _finite(entry) for name, entry in value.items()}
            if isinstance(value, Mapping)
            else _finite(value)
            for key, value in {**asdict(self), "severity": self.severity.value}.items()
            if value is not None or key not in ("file", "line")
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
