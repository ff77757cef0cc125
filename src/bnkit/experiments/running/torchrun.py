"""Train the runs of a plan one after the other, each in all processes that torchrun has started; process 0 records."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.callbacks import Callback, CallbackList, EventHandler
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.records.run_epochs_file import Record, Status
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.running.in_process import incomplete_runs
from bnkit.experiments.running.launch_request import LaunchOptions, PreparedExperiment, RunRequest, Train, prepare
from bnkit.experiments.running.serialization import require_same_data
from bnkit.experiments.running.train_or_resume_run import make_run_folder, train_run
from bnkit.experiments.training.distributed import Processes, process_group
from bnkit.memory import keep_freed_memory

# The files needed to resume a run.
_STATE = ("record.jsonl", "checkpoint.pt")


@contextmanager
def launch(request: RunRequest, callback: EventHandler) -> Iterator[PreparedExperiment]:
    """The experiment of ``request``, to be trained by this process and those that torchrun started with it.

    Raises:
        SettingsError: If an option requests another way to train.
    """
    options, experiment = request.options, request.experiment
    requested = replace(options, try_training=True, workers=None if options.workers == "auto" else options.workers)
    if requested != LaunchOptions():
        raise SettingsError("`workers`, `run_timeout` or `engine` under torchrun; expected none of them with it")
    with process_group() as processes:
        leads = processes.rank == 0
        own, components = prepare(experiment, options, request.overrides, request.resolved_before, processes.count)
        # All use the values resolved by process 0: on other machines "auto" may mean something else.
        text = processes.broadcast(own.experiment.to_toml() if leads else None)
        shared = plan(parse_experiment(tomllib.loads(text), "process 0"))
        require_same_data(experiment.data, processes.all_gather(components.data.digest))
        if leads:
            train: Train = partial(_lead, components, processes, request, callback)
            yield PreparedExperiment(shared, components, train)
            processes.broadcast(None)  # training has ended
        else:
            yield PreparedExperiment(shared, components, partial(_follow, components, processes), writes=False)


def _lead(
    components: Components,
    processes: Processes,
    request: RunRequest,
    callback: EventHandler,
    plan: Plan,
    given_up: Collection[str] = (),
) -> None:
    """In process 0, train every run of ``plan`` that is not complete in its folder, and record it there.

    Raises:
        FactoryError: If a run failed in one process only, so that they cannot continue together.
    """
    keep_freed_memory()
    folder, callback = request.folder, CallbackList(*request.worker_callbacks, callback)
    with incomplete_runs(plan, folder, callback, given_up) as (runs, callback):
        processes.broadcast([run.run_id for run in runs])
        for run in runs:
            processes.broadcast(_state(run, folder))
            train_run(run, components, folder, callback, keep_checkpoints=request.keep_checkpoints, processes=processes)
            _require_same_status(run, folder.record(run), processes)


def _follow(components: Components, processes: Processes, plan: Plan, given_up: Collection[str] = ()) -> None:
    """In any other process, train the same runs of ``plan`` as process 0, until it ends; records go to a temporary folder.

    Raises:
        FactoryError: As ``_lead``.
    """
    keep_freed_memory()
    runs = {run.run_id: run for run in plan}
    names: list[str] | None
    while (names := processes.broadcast(None)) is not None:
        for name in names:
            _train_along(runs[name], components, processes)


def _train_along(run: Run, components: Components, processes: Processes) -> None:
    state: dict[str, bytes] = processes.broadcast(None)
    with TemporaryDirectory() as path:
        folder = ResultsFolder(Path(path))
        make_run_folder(run, folder)
        for name, content in state.items():
            atomic_files.replace(folder.run_folder(run) / name, content)
        train_run(run, components, folder, Callback(), processes=processes)
        _require_same_status(run, folder.record(run), processes)


def _state(run: Run, folder: ResultsFolder) -> dict[str, bytes]:
    paths = [folder.run_folder(run) / name for name in _STATE]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _require_same_status(run: Run, record: Record, processes: Processes) -> None:
    """Raise an error if ``run`` failed in some of the processes only."""
    ended = processes.all_gather((record.status, (record.traceback.strip().splitlines() or [""])[-1]))
    if len({status for status, _ in ended}) > 1:
        rank, cause = next((rank, cause) for rank, (status, cause) in enumerate(ended) if status is Status.FAILED)
        raise FactoryError(f"run {run.number} failed in process {rank} alone: {cause}; fix that, and call again")
