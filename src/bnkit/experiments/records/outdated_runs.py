"""Runs in a results folder that other code or other data made: they are kept, and counted nowhere. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bnkit.experiments.plan import Plan

# So many are named.
_NAMED = 4
# What follows the name of a user's own code in an identity.
_DIGEST = re.compile(r"#[0-9a-f]{12}")


def describe_outdated_runs(folder: Path, plan: Plan) -> str | None:
    """Which runs in ``folder`` are those of ``plan`` but for the code or the data, in a sentence; None where none are."""
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
    made = "by other code" if not of_data else "from other data" if not of_code else "by other code or from other data"
    names = [*of_code, *of_data]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = ", ".join(names[:_NAMED]) + more
    count, verb = ("1 run", "was") if len(names) == 1 else (f"{len(names)} runs", "were")
    return (
        f"{count} in {folder / 'runs'} {verb} made {made}, and are not counted: {listed}; they are kept, and what is "
        "asked for is trained with what is there now"
    )


def _recorded(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs that began in ``folder``, and what their figures depend on."""
    for record in sorted(folder.glob("runs/*/record.jsonl")):
        try:
            with record.open(encoding="utf-8") as lines:
                content = json.loads(lines.readline())["run"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # read, and judged, where it is asked for
        if isinstance(content, dict):
            yield record.parent.name, content


def _key(content: Mapping[str, Any]) -> str:
    """What a run is, but for the versions of its code and data."""
    known = {name: value for name, value in content.items() if name != "data"}
    return _DIGEST.sub("", json.dumps(known, sort_keys=True))
