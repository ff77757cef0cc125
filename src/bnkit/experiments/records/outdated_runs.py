"""Detect runs in a results folder that an earlier version of the code or the data made. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bnkit.experiments.plan import Plan

# Runs that the message names.
_NAMED = 4
# The digest in the identity of a user's function.
_DIGEST = re.compile(r"#[0-9a-f]{12}")


def describe_outdated_runs(folder: Path, plan: Plan) -> str | None:
    """A sentence that names runs in ``folder`` that differ from ``plan`` only in code or data; None if there are none."""
    planned = {_key(run.content): run.content for run in plan}
    ids, of_code, of_data = {run.run_id for run in plan}, list[str](), list[str]()
    for name, content in _recorded(folder):
        now = planned.get(_key(content))
        if name in ids or now is None:
            continue
        same_code = all(content.get(part) == now.get(part) for part in ("network", "task"))
        (of_data if same_code else of_code).append(name)
    if not of_code and not of_data:
        return None
    origin = (
        "by other code" if not of_data else "from other data" if not of_code else "by other code or from other data"
    )
    names = [*of_code, *of_data]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = ", ".join(names[:_NAMED]) + more
    count, verb = ("1 run", "was") if len(names) == 1 else (f"{len(names)} runs", "were")
    return (
        f"{count} in {folder / 'runs'} {verb} made {origin}, and are not counted: {listed}; they are kept, and what is "
        "asked for is trained with what is there now"
    )


def _recorded(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names of the runs in ``folder``, and the content that each was started with."""
    for record in sorted(folder.glob("runs/*/record.jsonl")):
        try:
            with record.open(encoding="utf-8") as lines:
                content = json.loads(lines.readline())["run"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # an error is raised where the record is read
        if isinstance(content, dict):
            yield record.parent.name, content


def _key(content: Mapping[str, Any]) -> str:
    """The content of a run without the digests of its code and its data."""
    known = {name: value for name, value in content.items() if name != "data"}
    return _DIGEST.sub("", json.dumps(known, sort_keys=True))
