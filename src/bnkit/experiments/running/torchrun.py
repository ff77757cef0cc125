"""Training the runs of a plan one after the other, each of them by several processes together; process 0 writes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bnkit.errors import FactoryError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.record import Record, Status
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.resolve import Components
from bnkit.experiments.running.run import make_run_folder, train_run
from bnkit.experiments.running.sequential import training
from bnkit.experiments.training.distributed import Processes
from bnkit.memory import keep_freed_memory

# What a process needs that goes on with a run.
_STATE = ("record.jsonl", "checkpoint.pt")


def train_together(
    plan: Plan,
    components: Components,
    folder: ResultsFolder,
    callback: Callback,
    processes: Processes,
    *,
    keep_checkpoints: bool = False,
) -> None:
    """Train every run of ``plan`` that is not complete in the folder of process 0, and write it down there.

    The other processes write what they need to go on to a folder of their own, and throw it away.

    Raises:
        FactoryError: A run failed in one process only, so that they cannot go on together.
    """
    keep_freed_memory()
    if processes.rank == 0:
        with training(plan, folder, callback) as (left, told):
            processes.broadcast([run.number for run in left])
            for run in left:
                processes.broadcast(_state(run, folder))
                train_run(run, components, folder, told, keep_checkpoints=keep_checkpoints, processes=processes)
                _agree(run, folder.record(run), processes)
        return
    numbers: list[int] = processes.broadcast(None)
    for number in numbers:
        run = plan.runs[number - 1]
        state: dict[str, bytes] = processes.broadcast(None)
        with TemporaryDirectory() as place:
            own = ResultsFolder(Path(place))
            make_run_folder(run, own)
            for name, content in state.items():
                atomic_files.replace(own.run_folder(run) / name, content)
            train_run(run, components, own, Callback(), processes=processes)
            _agree(run, own.record(run), processes)


def _state(run: Run, folder: ResultsFolder) -> dict[str, bytes]:
    paths = [folder.run_folder(run) / name for name in _STATE]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _agree(run: Run, record: Record, processes: Processes) -> None:
    """Raise an error where ``run`` ended another way in one process than in the others."""
    ended = processes.all_gather((record.status, (record.traceback.strip().splitlines() or [""])[-1]))
    if len({status for status, _ in ended}) > 1:
        rank, cause = next((rank, cause) for rank, (status, cause) in enumerate(ended) if status is Status.FAILED)
        raise FactoryError(f"run {run.number} failed in process {rank} alone: {cause}; mend that, and call again")
