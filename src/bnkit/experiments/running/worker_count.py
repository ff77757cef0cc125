"""How many workers the runs of an experiment get. Needs no torch."""

from __future__ import annotations

import math
import os
from itertools import islice
from pathlib import Path

from bnkit.experiments.callbacks import EventHandler, Note
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.factories import is_factory_name
from bnkit.messages import plural

# Where Linux has GPUs of NVIDIA.
_NVIDIA = Path("/dev/nvidiactl")
# Where Linux says how much processor time a container may use: a quota and a period in microseconds.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
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
    return gpus or max(1, available_cpus() // threads)


def worker_count_for(asked: int | str, plan: Plan, callback: EventHandler) -> int:
    """How many workers ``asked`` means for ``plan``, with a note if they ask too much of the machine."""
    import torch

    on_gpus = all(run.settings.device.startswith("cuda") for run in plan)
    threads = plan.runs[0].threads
    count = resolve_worker_count(asked, threads, torch.cuda.device_count() if on_gpus else 0)
    cpus = available_cpus()
    if not on_gpus and count * threads > cpus:
        each = f"{plural(count, 'worker')} of {plural(threads, 'thread')} each"
        shared = f"{each} share {plural(cpus, 'processor')}"
        callback(Note(f"{shared}; `workers` auto takes as many as go"))
    return min(count, len(plan))


def min_worker_count(asked: int | str, experiment: Experiment, threads: int, networks: int | None = None) -> int:
    """How many there will be at least, as far as can be told before torch is loaded, which takes seconds.

    Args:
        asked: A number, or "auto".
        experiment: What is trained.
        threads: Of each run.
        networks: How many there are, each with all its arms; None for those that ``experiment`` names.
    """
    on_gpus = _NVIDIA.exists() and any(device != "cpu" for device in experiment.grid.device)
    count = 1 if asked == "auto" and on_gpus else resolve_worker_count(asked, threads)
    points = math.prod(len(set(getattr(experiment.grid, key))) for key in experiment.grid.explicit_keys)
    if networks is None:
        networks = sum(1 if is_factory_name(name) else len(experiment.arms) for name in experiment.networks)
    return min(count, len(experiment.seeds) * points * networks)


def count_missing_runs(plan: Plan, folder: ResultsFolder, most: int) -> int:
    """How many runs are not complete, up to ``most``, as far as can be told before this process is the only writer."""
    read_now = ResultsFolder(folder.path)
    missing = (run for run in plan if not read_now.record(run).is_complete)
    return sum(1 for _ in islice(missing, most))
