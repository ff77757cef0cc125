"""What an offline run of W&B holds: its file is a log of LevelDB's form, whose records are protocol buffers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field

_HEADER, _BLOCK = 7, 32 * 1024


@dataclass
class OfflineRun:
    id: str = ""
    project: str = ""
    group: str = ""
    name: str = ""
    job_type: str = ""
    config: dict = field(default_factory=dict)
    history: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    exit_code: int | None = None


def offline_runs(folder):
    """The runs in ``folder``, in the order in which they began."""
    return [_read(path) for path in sorted(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)]


def _read(path):
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            entry = record.run
            run.id, run.project, run.group = entry.run_id, entry.project, entry.run_group
            run.name, run.job_type = entry.display_name, entry.job_type
            run.config |= {item.key: json.loads(item.value_json) for item in entry.config.update}
            run.config.pop("_wandb", None)
        elif kind == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            step = record.history.step.num
            assert step not in run.history
            run.history[step] = {key: value for key, value in values.items() if not key.startswith("_")}
        elif kind == "summary":
            run.summary |= {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(content):
    at, whole = _HEADER, b""  # the file begins with a header of its own
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + _HEADER])
        if kind == 0:
            break
        whole += content[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""
