"""A digest of a page's inputs in its last line: a page with the same digest is not made again, which saves time."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from bnkit.report.results_of_plan import Results


def mark_page(html: str, results: Results) -> str:
    """Append the digest of ``results`` to ``html``, the page about them."""
    return f"{html}\n{_mark(results)}"


def is_up_to_date(path: Path, results: Results) -> bool:
    """Whether this version of the code made the file from these results."""
    expected = _mark(results).encode()
    try:
        with path.open("rb") as file:
            file.seek(-len(expected), os.SEEK_END)
            return file.read() == expected
    except OSError:  # the file is missing or shorter than the line
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
    """A digest of the modules and files that make a page, and of Bokeh's version."""
    digest = hashlib.sha256(metadata.version("bokeh").encode())
    for folder in map(resources.files, ("bnkit.report", "bnkit.report.charts", "bnkit.intervals")):
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.is_file():
                digest.update(f"{file.name} ".encode() + file.read_bytes())
    return digest.hexdigest()
