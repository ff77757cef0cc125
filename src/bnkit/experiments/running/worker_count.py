"""The number of workers for the runs of an experiment. Needs no torch."""

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
from bnkit.experiments.running.launch_request import RunRequest
from bnkit.import_user_function import is_factory_name
from bnkit.message_parts import plural

if TYPE_CHECKING:
    from bnkit.experiments.resolve_experiment import Components

# NVIDIA's GPUs on Linux.
_NVIDIA = Path("/dev/nvidiactl")
# The limit of a container's processor time on Linux: a quota and a period in microseconds.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# The seconds of training on one core from which starting workers pays: a server loads torch in four.
_WORTH_WORKERS = 10.0
# The epochs over all runs that are likely to take this long.
_EPOCHS_WORTH_WORKERS = 100


def available_cpus() -> int:
    """The number of processors for this process: those of the machine, its affinity, or its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file; or "max": no quota
        return allowed


def resolve_worker_count(asked: int | str, threads: int, gpus: int = 0) -> int:
    """The number of workers that ``asked`` means.

    Args:
        asked: A number, or "auto": as many as there are processors for ``threads`` threads each, or GPUs.
        threads: The threads of each run.
        gpus: The number of GPUs if the runs compute on GPUs; otherwise 0.

    Examples:
        >>> resolve_worker_count(3, 1), resolve_worker_count("auto", 1, gpus=4)
        (3, 4)
    """
    if isinstance(asked, int):
        return asked
    return gpus or max(1, available_cpus() // threads)


def worker_count_for(request: RunRequest, plan: Plan, components: Components, callback: EventHandler) -> int:
    """The number of workers for ``plan``, with a note if they overload the machine; 0 to train in this process.

    "auto" uses workers if the training takes longer than starting several of them.
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
        callback(Note(f"{shared}; `workers` auto uses as many as fit"))
    return min(count, len(plan))


def may_need_workers(request: RunRequest) -> bool:
    """Whether workers are likely, as far as is known before torch is loaded, which takes seconds."""
    options, experiment = request.options, request.experiment
    if request.resolved_before is not None:  # all runs may be complete
        return False
    if options.workers != "auto" or options.run_timeout is not None:
        return options.workers is not None or options.run_timeout is not None
    points = math.prod(len(set(getattr(experiment.grid, key))) for key in experiment.grid.explicit_keys)
    networks = sum(1 if is_factory_name(name) else len(experiment.arms) for name in experiment.networks)
    epochs = len(experiment.seeds) * points * networks * experiment.epochs
    return available_cpus() > max(1, experiment.threads) and epochs >= _EPOCHS_WORTH_WORKERS


def may_use_gpus(experiment: Experiment) -> bool:
    """Whether a run may compute on a GPU, as far as is known before torch is loaded."""
    return _NVIDIA.exists() and any(device != "cpu" for device in experiment.grid.device)


def missing_runs(plan: Plan, request: RunRequest, most: int | None = None) -> list[Run]:
    """The runs that are not complete, up to ``most``, as far as is known before this process is the only writer."""
    if request.resolved_before is None:
        return list(plan.runs[:most])
    read_now = ResultsFolder(request.folder.path)
    return list(islice((run for run in plan if not read_now.record(run).is_complete), most))
