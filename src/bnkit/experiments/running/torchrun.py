"""Training the runs of a plan one after the other, each of them by several processes together; process 0 writes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from bnkit.errors import FactoryError
from bnkit.experiments.callbacks import Observer
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.record import Record, Status
from bnkit.experiments.records.results_folder import Folder
from bnkit.experiments.resolve import Materials
from bnkit.experiments.running.run import attempt, make_run_folder
from bnkit.experiments.running.sequential import training
from bnkit.experiments.training.distributed import Processes
from bnkit.memory import keep_freed_memory

# What a process needs that goes on with a run.
_STATE = ("record.jsonl", "checkpoint.pt")


def train_together(
    plan: Plan,
    materials: Materials,
    folder: Folder,
    observer: Observer,
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
        with training(plan, folder, observer) as (left, told):
            processes.from_first([run.number for run in left])
            for run in left:
                processes.from_first(_state(run, folder))
                attempt(run, materials, folder, told, keep_checkpoints=keep_checkpoints, processes=processes)
                _agree(run, folder.record(run), processes)
        return
    numbers: list[int] = processes.from_first(None)
    for number in numbers:
        run = plan.runs[number - 1]
        state: dict[str, bytes] = processes.from_first(None)
        with TemporaryDirectory() as place:
            own = Folder(Path(place))
            make_run_folder(run, own)
            for name, content in state.items():
                atomic_files.replace(own.run_folder(run) / name, content)
            attempt(run, materials, own, Observer(), processes=processes)
            _agree(run, own.record(run), processes)


def _state(run: Run, folder: Folder) -> dict[str, bytes]:
    paths = [folder.run_folder(run) / name for name in _STATE]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _agree(run: Run, record: Record, processes: Processes) -> None:
    """Raise an error where ``run`` ended another way in one process than in the others."""
    ended = processes.told((record.status, (record.traceback.strip().splitlines() or [""])[-1]))
    if len({status for status, _ in ended}) > 1:
        rank, cause = next((rank, cause) for rank, (status, cause) in enumerate(ended) if status is Status.FAILED)
        raise FactoryError(f"run {run.number} failed in process {rank} alone: {cause}; mend that, and call again")
