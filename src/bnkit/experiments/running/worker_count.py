"""How many workers the runs of an experiment get."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.processors import processors, resolve_worker_count
from bnkit.factories import is_factory_name

# Where Linux has GPUs of NVIDIA.
_NVIDIA = Path("/dev/nvidiactl")


def worker_count_for(asked: int | str, plan: Plan, callback: Callback) -> int:
    """How many workers ``asked`` means for ``plan``, and a note if they ask too much of the machine."""
    import torch

    on_gpus = all(run.settings.device.startswith("cuda") for run in plan)
    threads = plan.runs[0].threads
    count = resolve_worker_count(asked, threads, torch.cuda.device_count() if on_gpus else 0)
    if not on_gpus and count * threads > processors():
        callback.note(
            f"{count} workers of {threads} threads each share {processors()} processors; --workers auto takes as many as go"
        )
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
    as_it_is_now = ResultsFolder(folder.path)
    left = (run for run in plan if not as_it_is_now.record(run).is_complete)
    return sum(1 for _ in islice(left, most))
