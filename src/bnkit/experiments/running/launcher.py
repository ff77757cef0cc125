"""Chooses where the runs of an experiment are trained: this process, processes of this machine, a Ray cluster, torchrun.

Each way is a function ``launch(request, callback)``, a context in which the experiment is prepared and can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bnkit.experiments.callbacks import EventHandler, Note
from bnkit.experiments.running.request import LaunchOptions, PreparedExperiment, RunRequest, under_torchrun
from bnkit.experiments.running.worker_count import min_worker_count
from bnkit.experiments.running.worker_process import refuse_nested_workers, started_workers
from bnkit.messages import plural

Launcher = Callable[[RunRequest, EventHandler], AbstractContextManager[PreparedExperiment]]


@contextmanager
def launch(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    """The experiment of ``request``, resolved, its networks tried once, and ready to train. Writes nothing.

    Processes that were started end with the context.

    Args:
        request: What to train, and where.
        callback: Receives the events, in this process.

    Raises:
        BnkitError: Something that was given is invalid here.
    """
    refuse_nested_workers()
    with _launcher(request.options)(request, callback) as prepared:
        default = request.experiment.threads or request.options.threads or _torch_threads()
        before, resolved = request.resolved_before, prepared.plan.experiment.settled
        if before is not None and resolved is not None and before.threads == resolved.threads != default:
            folder, threads = request.folder.path, before.threads
            callback(
                Note(
                    f"{folder} was begun with {plural(threads, 'thread')}, and goes on so; `fresh` trains all runs again"
                )
            )
        for remark in prepared.components.data.remarks():
            callback(Note(remark))
        yield prepared


def _launcher(options: LaunchOptions) -> Launcher:
    if under_torchrun():
        from bnkit.experiments.running import torchrun

        return torchrun.launch
    if options.engine == "ray":
        from bnkit.experiments.running import ray_cluster

        return ray_cluster.launch
    if options.workers is None and options.run_timeout is None:
        from bnkit.experiments.running import sequential

        return sequential.launch
    return _launch_pool


@contextmanager
def _launch_pool(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    options, experiment, networks = request.options, request.experiment, request.overrides.networks
    least = min_worker_count(
        options.workers or 1,
        experiment,
        experiment.threads or options.threads or 1,
        None if networks is None else len(networks),
    )
    # They load torch while it is loaded here. Where a folder was begun, there may be nothing left to train.
    with started_workers(least if request.resolved_before is None else 0) as early:
        from bnkit.experiments.running import pool

        with pool.launch(request, callback, early) as prepared:
            yield prepared


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
