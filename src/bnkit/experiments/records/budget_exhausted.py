"""The note in a results folder that the budget ended before all was decided. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from bnkit.experiments.records import atomic_files

_BUDGET_END = "calls/budget.json"


def note_budget_end(folder: Path, runs: int, seconds: float) -> None:
    """Note that the budget ended after ``runs`` runs and ``seconds`` seconds of the call."""
    content = {"runs": runs, "seconds": round(seconds, 3)}
    atomic_files.replace(folder / _BUDGET_END, json.dumps(content).encode())


def runs_at_budget_end(folder: Path) -> int | None:
    """The number of runs when the budget ended; None if it did not, or the note cannot be read."""
    try:
        runs = json.loads((folder / _BUDGET_END).read_bytes())["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return runs if isinstance(runs, int) else None


def forget_budget_end(folder: Path) -> None:
    """Remove the note, because a call resumes."""
    (folder / _BUDGET_END).unlink(missing_ok=True)
