"""What a page was made from, as a line at its end: an equal one need not be made again, which takes longer than all else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from bnkit.report.results import Results


def mark_page(html: str, results: Results) -> str:
    """``html``, the page about ``results``, with the line at its end."""
    return f"{html}\n{_mark(results)}"


def is_up_to_date(path: Path, results: Results) -> bool:
    """Whether the file is a page that this code made of these results."""
    expected = _mark(results).encode()
    try:
        with path.open("rb") as file:
            file.seek(-len(expected), os.SEEK_END)
            return file.read() == expected
    except OSError:  # there is none, or a shorter one
        return False


def _mark(results: Results) -> str:
    digest = hashlib.sha256(_code_digest().encode())
    digest.update(results.plan.experiment.to_toml().encode())
    digest.update(repr([run.run_id for run in results.plan]).encode())
    for run_id, record in results.records.items():
        digest.update(f"{run_id} {record!r} {record.lost_example_scores}".encode())
    for name in (field.name for field in fields(results) if field.name not in ("plan", "records")):
        value = getattr(results, name)
        digest.update(f"{name} {sorted(value) if isinstance(value, (set, frozenset)) else value!r}".encode())
    return f"<!-- made from {digest.hexdigest()} -->\n"


@cache
def _code_digest() -> str:
    """Of the modules and the files that a page is made with, and of Bokeh."""
    digest = hashlib.sha256(metadata.version("bokeh").encode())
    for folder in map(resources.files, ("bnkit.report", "bnkit.report.charts", "bnkit.intervals")):
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.is_file():
                digest.update(f"{file.name} ".encode() + file.read_bytes())
    return digest.hexdigest()
