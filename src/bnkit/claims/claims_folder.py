"""The folder that ``bnkit claims`` writes: the verdicts, and a folder with the comparison of each design. Needs no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bnkit.claims import designs
from bnkit.claims.claims_page import claims_page
from bnkit.comparison.comparison_result import Comparison
from bnkit.errors import RecordError
from bnkit.experiments.records import atomic_files, overwrite_protection
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.strict_json import dumps

_VERDICTS, _TABLE, _PAGE = "claims.json", "claims.md", "claims.html"
_FILES = (_VERDICTS, _TABLE, _PAGE)
_CLAIM_KEYS = frozenset((
    *("number", "statement", "said_by", "hypothesis", "verdict", "why", "matters", "effects", "mean", "low", "high", "n", "text"),
    *("design", "network", "budget"),
))  # fmt: skip


def holds_claims(path: Path) -> bool:
    """Whether ``bnkit claims`` wrote verdicts into the folder."""
    return (path / _VERDICTS).is_file()


def read(out: Path) -> dict[str, Any]:
    """The verdicts in ``out``.

    Raises:
        RecordError: The verdicts are missing or cannot be read.
    """
    path = out / _VERDICTS
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for claim in content["claims"]:
            missing = _CLAIM_KEYS - claim.keys()
            if missing:
                raise ValueError(f"a claim has no {min(missing)}")
        content["answer"], content["environment"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} cannot be read; expected a file that bnkit claims wrote: run it again") from error
    return content


def read_if_any(out: Path) -> dict[str, Any] | None:
    """The verdicts in ``out``; None if they are missing or cannot be read."""
    try:
        return read(out)
    except RecordError:
        return None


def refuse_foreign(out: Path, designs: Iterable[str]) -> None:
    """Make sure that verdicts and the comparisons of ``designs`` can be written without replacing a user's file.

    Raises:
        RecordError: A user's file is in the way.
    """
    overwrite_protection.refuse_foreign(out, _FILES)
    for name in designs:
        ResultsFolder(out / name).refuse_foreign()


def write(out: Path, content: dict[str, Any], table: str) -> None:
    """Write the verdicts, and their table as Markdown.

    Raises:
        RecordError: The folder cannot be written, or a user's file would be replaced.
    """
    overwrite_protection.refuse_foreign(out, _FILES)
    try:
        atomic_files.make_folder(out)
    except OSError as error:
        raise atomic_files.UnwritableError.of(out, error) from error
    overwrite_protection.mark(out, _FILES)
    atomic_files.replace(out / _VERDICTS, dumps(content, indent=1).encode())
    atomic_files.replace(out / _TABLE, table.encode())


def write_page(out: Path, *, with_designs: bool = False) -> Path:
    """Write the page about the verdicts in ``out`` and what was trained for them, and return its path.

    Args:
        out: The folder.
        with_designs: Write the report of each design first.

    Raises:
        RecordError: The verdicts are missing, or the folder cannot be written.
    """
    content = read(out)
    overwrite_protection.refuse_foreign(out, _FILES)
    asked = {claim["design"] for claim in content["claims"] if claim["network"] is not None}
    # In the designs' order; names in the file that are not designs are ignored, since they would become paths.
    names = [name for name in designs(quick=False) if name in asked]
    # If an earlier call trained a design whose folder was deleted since, only its verdicts are left.
    comparisons = [Comparison(out / name) for name in names if ResultsFolder(out / name).experiment_file.is_file()]
    if with_designs:
        for comparison in comparisons:
            comparison.write_report()
    page = claims_page(content, [_section(comparison, content) for comparison in comparisons])
    ResultsFolder(out).replace(out / _PAGE, page)
    return out / _PAGE


def _section(comparison: Comparison, content: dict[str, Any]) -> dict[str, Any]:
    """The section of the page about a design."""
    experiment, folder = comparison.plan.experiment, comparison.folder
    records = comparison.own_results.records.values()
    statuses = Counter("not trained" if record.status is None else record.status.value for record in records)
    return {
        "name": experiment.name,
        "about": experiment.about,
        "networks": ", ".join(experiment.networks),
        "epochs": experiment.epochs,
        "claims": [claim["number"] for claim in content["claims"] if claim["design"] == experiment.name],
        "runs": ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())),
        "minutes": sum(record.last.run_duration for record in records if record.last is not None) / 60,
        "load": _load(content.get("loads", {}).get(experiment.name, ())),
        "tables": comparison.further_tables(),
        "report": f"{folder.path.name}/{folder.report_file.name}" if folder.report_file.is_file() else None,
    }


def _load(loads: Sequence[float]) -> str | None:
    """A sentence about the load of the machine while durations were measured."""
    if not loads:
        return None
    between = f"{min(loads):g} to {max(loads):g}" if min(loads) < max(loads) else f"{max(loads):g}"
    return f"Runs whose durations are asked for were trained alone, at a load average of {between} as each began"
