"""Choose where the runs of an experiment are trained: this process, processes of this machine, a Ray cluster, torchrun.

Each way is a function ``launch(request, callback)``, a context in which the experiment is prepared and can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bnkit.experiments.callbacks import EventHandler, Note
from bnkit.experiments.running.completed_experiment import recorded_experiment
from bnkit.experiments.running.launch_request import LaunchOptions, PreparedExperiment, RunRequest, under_torchrun
from bnkit.experiments.running.start_and_stop_worker import refuse_nested_workers, warm_up
from bnkit.experiments.running.worker_count import may_need_workers
from bnkit.message_parts import plural

Launcher = Callable[[RunRequest, EventHandler], AbstractContextManager[PreparedExperiment]]


@contextmanager
def launch(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    """The experiment of ``request``, resolved, its networks tried once, and ready to train. Does not write files.

    Processes started here end with the context.

    Args:
        request: The experiment, the folder and the options.
        callback: Receives the events, in this process.

    Raises:
        BnkitError: If an argument is invalid here.
    """
    refuse_nested_workers()
    recorded = recorded_experiment(request, callback)
    if recorded is not None:
        yield recorded
        return
    with _launcher(request.options)(request, callback) as prepared:
        before, resolved = request.resolved_before, prepared.plan.experiment.settled
        # Without components, all runs were recorded, and no run is trained.
        components = prepared.components
        if (
            components is not None
            and before is not None
            and resolved is not None
            and before.threads == resolved.threads
        ):
            default = request.experiment.threads or request.options.threads
            if before.threads != (default or components.default_threads(prepared.plan)):
                begun = f"{request.folder.path} was begun with {plural(before.threads, 'thread')}"
                callback(Note(f"{begun}, and continues with that; `fresh` trains all runs again"))
        for remark in components.data.remarks() if components is not None else ():
            callback(Note(remark))
        yield prepared


def _launcher(options: LaunchOptions) -> Launcher:
    if under_torchrun():
        from bnkit.experiments.running import torchrun

        return torchrun.launch
    if options.engine == "ray":
        from bnkit.experiments.running import ray_cluster

        return ray_cluster.launch
    return _launch_here


@contextmanager
def _launch_here(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    if may_need_workers(request):
        warm_up(request.experiment)  # it loads torch while that is loaded here
    from bnkit.experiments.resolve_experiment import resolve_experiment
    from bnkit.experiments.running import in_process, pool
    from bnkit.experiments.running.worker_count import worker_count_for

    options, before = request.options, request.resolved_before
    plan, components = resolve_experiment(request.experiment, *request.overrides, before, options.threads)
    workers = worker_count_for(request, request.asked(plan, request.folder), components, callback)
    if workers == 0:
        launched = in_process.launch(plan, components, request, callback)
    else:
        launched = pool.launch(plan, components, request, callback, workers)
    with launched as prepared:
        yield prepared
