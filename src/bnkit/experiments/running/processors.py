"""How many runs a machine can train at once. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

# Where Linux says how much processor time a container may use: a quota and a period in microseconds.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def processors() -> int:
    """How many processors this process may use: of the machine, of its affinity, or of its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file; or "max": no quota
        return allowed


def resolve_worker_count(asked: int | str, threads: int, gpus: int = 0) -> int:
    """How many workers ``asked`` means.

    Args:
        asked: A number, or "auto": as many as there are processors for ``threads`` threads each, or GPUs.
        threads: Of each run.
        gpus: How many GPUs there are, where the runs compute on GPUs; 0 where they do not.

    Example:
        >>> resolve_worker_count(3, 1), resolve_worker_count("auto", 1, gpus=4)
        (3, 4)
    """
    if isinstance(asked, int):
        return asked
    return gpus or max(1, processors() // threads)
