"""How many workers the runs of an experiment get. Needs no torch."""

from __future__ import annotations

import math
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bnkit.experiments.callbacks import EventHandler, Note
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.request import RunRequest
from bnkit.factory_import import is_factory_name
from bnkit.messages import plural

if TYPE_CHECKING:
    from bnkit.experiments.resolve import Components

# Where Linux has GPUs of NVIDIA.
_NVIDIA = Path("/dev/nvidiactl")
# Where Linux says how much processor time a container may use: a quota and a period in microseconds.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Seconds of training on one core for which it pays to start workers: a server loads torch in four.
_WORTH_WORKERS = 10.0
# Epochs over all runs that are likely to take so long.
_EPOCHS_WORTH_WORKERS = 100


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


def worker_count_for(request: RunRequest, plan: Plan, components: Components, callback: EventHandler) -> int:
    """How many workers train ``plan``, with a note if they ask too much of the machine; 0 where this process does.

    "auto" takes workers where several have something to do for longer than it takes to start them.
    """
    import torch

    asked = request.options.workers
    if asked is None:
        return 0 if request.options.run_timeout is None else 1
    on_gpus = all(run.settings.device.startswith("cuda") for run in plan)
    threads = plan.runs[0].threads
    count = resolve_worker_count(asked, threads, torch.cuda.device_count() if on_gpus else 0)
    if asked == "auto" and request.options.run_timeout is None:
        missing = missing_runs(plan, request)
        seconds = sum(components.costs.seconds(run) for run in missing) if count > 1 < len(missing) else 0.0
        return min(count, len(missing)) if seconds >= _WORTH_WORKERS else 0
    cpus = available_cpus()
    if not on_gpus and count * threads > cpus:
        each = f"{plural(count, 'worker')} of {plural(threads, 'thread')} each"
        shared = f"{each} share {plural(cpus, 'processor')}"
        callback(Note(f"{shared}; `workers` auto takes as many as go"))
    return min(count, len(plan))


def may_need_workers(request: RunRequest) -> bool:
    """Whether workers are likely, as far as can be told before torch is loaded, which takes seconds."""
    options, experiment = request.options, request.experiment
    if request.resolved_before is not None:  # there may be nothing left to train
        return False
    if options.workers != "auto" or options.run_timeout is not None:
        return options.workers is not None or options.run_timeout is not None
    points = math.prod(len(set(getattr(experiment.grid, key))) for key in experiment.grid.explicit_keys)
    networks = sum(1 if is_factory_name(name) else len(experiment.arms) for name in experiment.networks)
    epochs = len(experiment.seeds) * points * networks * experiment.epochs
    return available_cpus() > max(1, experiment.threads) and epochs >= _EPOCHS_WORTH_WORKERS


def may_use_gpus(experiment: Experiment) -> bool:
    """Whether a run may compute on a GPU, as far as can be told before torch is loaded."""
    return _NVIDIA.exists() and any(device != "cpu" for device in experiment.grid.device)


def missing_runs(plan: Plan, request: RunRequest, most: int | None = None) -> list[Run]:
    """The runs that are not complete, up to ``most``, as far as can be told before this process is the only writer."""
    if request.resolved_before is None:
        return list(plan.runs[:most])
    read_now = ResultsFolder(request.folder.path)
    return list(islice((run for run in plan if not read_now.record(run).is_complete), most))
