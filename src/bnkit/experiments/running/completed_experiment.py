"""A completed experiment: resolved from names alone, with all results on disk. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bnkit.errors import BnkitError
from bnkit.experiments.callbacks import EventHandler, PlanStarted
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.launch_request import PreparedExperiment, RunRequest, under_torchrun
from bnkit.experiments.running.resolve_without_torch import resolve_by_name

# Files that a killed call may leave next to the record of an ended run; the launchers remove them.
_LEFT_BEHIND = ("checkpoint.pt", ".checkpoint.pt.new", ".running")


def recorded_experiment(request: RunRequest, callback: EventHandler) -> PreparedExperiment | None:
    """The experiment of ``request`` if all its runs are recorded; None if there may be work left, or resolving it needs torch."""
    before = request.resolved_before
    is_local = request.options.engine == "local" and not under_torchrun()
    if before is None or not is_local or any(request.overrides) or request.worker_callbacks:
        return None
    try:
        settled = resolve_by_name(request.experiment, before)
        if settled is None:
            return None
        planned = plan(request.experiment.model_copy(update={"settled": settled}))
        if not all(_is_done(run, request.folder) for run in request.asked(planned, request.folder)):
            return None
    except BnkitError:  # the full resolution gives a better message
        return None
    return PreparedExperiment(planned, None, partial(_report, request.folder, callback))


def _is_done(run: Run, folder: ResultsFolder) -> bool:
    """Whether the record of ``run`` is complete, without leftover files next to it."""
    run_folder = folder.run_folder(run)
    return folder.record(run).is_complete and not any((run_folder / name).exists() for name in _LEFT_BEHIND)


def _report(folder: ResultsFolder, callback: EventHandler, plan: Plan, given_up: Collection[str] = ()) -> None:
    callback(PlanStarted(plan, {run: folder.record(run) for run in plan}))
    folder.write_results(plan)
