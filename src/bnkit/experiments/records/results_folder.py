"""The results folder of an experiment: its files, its lock, and ``results.csv``. Needs no torch."""

from __future__ import annotations

import csv
import io
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bnkit.errors import RecordError, SettingsError
from bnkit.experiments.experiment import Experiment, parse_experiment, read_experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files, earlier_compare_calls, example_scores, overwrite_protection
from bnkit.experiments.records.budget_exhausted import forget_budget_end
from bnkit.experiments.records.earlier_compare_calls import FolderRuns, folder_runs
from bnkit.experiments.records.run_epochs_file import CorruptRecordError, Epoch, Record, RecordFile, Status

_RUN_ID = re.compile(r"[0-9a-f]{12}")
_FILES_OF_A_RUN = (
    "record.jsonl",
    "record.garbled-*.jsonl",
    "weights.safetensors",
    example_scores.FILE,
    "epoch-*.safetensors",
    "checkpoint.pt",
    ".running",
    ".*.new",
)
# The files that a comparison writes.
_WRITTEN = ("experiment.toml", "results.csv", "report.html", "runs", overwrite_protection.LOCK)
# The results folders that a message names.
_NAMED = 3
# The folders of loggers.
_LOGS = ("tensorboard", "wandb", "mlflow")
# The fraction of the time that may be spent writing results.csv.
_SHARE_OF_TIME = 0.02
# Additional columns of results.csv if the experiment has a metric of its own.
_METRIC_COLUMNS = ("metric", "test_metric", "test_metric_population")


class ResultsFolder:
    """The results of one experiment on disk.

    ``experiment.toml`` holds the experiment of the last call, ``calls`` those of all, ``runs/<id>/record.jsonl`` the record of
    each run; ``results.csv`` and ``report.html`` are generated from those. A marker lists the files that bnkit wrote.

    Args:
        path: The folder; ``~`` is the home folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._records: dict[str, Record] = {}
        self._runs: tuple[Plan, FolderRuns] | None = None
        self._next_csv = 0.0

    @property
    def experiment_file(self) -> Path:
        """``experiment.toml``."""
        return self.path / "experiment.toml"

    @property
    def results_file(self) -> Path:
        """``results.csv``: a row for each run and epoch."""
        return self.path / "results.csv"

    @property
    def report_file(self) -> Path:
        """``report.html``."""
        return self.path / "report.html"

    def run_folder(self, run: Run) -> Path:
        """The folder of ``run``."""
        return self.path / "runs" / run.run_id

    def runs(self, own: Plan) -> FolderRuns:
        """The runs in this folder that answer the question of ``own``, looked for once."""
        if self._runs is None or self._runs[0] is not own:
            self._runs = own, folder_runs(self.path, own)
        return self._runs[1]

    def record_file(self, run: Run) -> RecordFile:
        """The record of ``run``."""
        return RecordFile(self.run_folder(run) / "record.jsonl")

    def record(self, run: Run) -> Record:
        """The record of ``run``, read once; empty if it is corrupt."""
        if run.run_id not in self._records:
            try:
                self.read(run)
            except CorruptRecordError:
                self._records[run.run_id] = Record()
        return self._records[run.run_id]

    def read(self, run: Run) -> None:
        """Read the record of ``run`` from disk.

        Raises:
            RecordError: As ``RecordFile.read``.
        """
        self._records[run.run_id] = self.record_file(run).read()

    def forget(self, run: Run) -> None:
        """Read the record of ``run`` from disk the next time."""
        self._records.pop(run.run_id, None)

    def experiment(self, call: Path | None = None) -> Experiment:
        """The experiment that was last run here, or that of the file ``call``.

        Raises:
            RecordError: If there is none, or it was not written by a comparison.
            SettingsError: If its file cannot be read.
        """
        file = self.experiment_file if call is None else call
        if not file.is_file():
            raise RecordError(
                f"{_why_no_experiment(self.path)}; expected a folder that bnkit compare wrote{_hint(self.path)}"
            )
        experiment = parse_experiment(read_experiment(file), str(file))
        if experiment.settled is None:
            raise RecordError(f"{file} was not written by a comparison; expected a folder that bnkit compare wrote")
        return experiment

    def refuse_foreign(self, *further: str) -> None:
        """Raise if a comparison written here would replace a file that bnkit did not write.

        Args:
            further: Names of other files that will be written, such as ``tensorboard``.

        Raises:
            RecordError: If there is such a file, or the folder is a file.
        """
        overwrite_protection.refuse_foreign(self.path, (*_WRITTEN, *further))

    def begin(self, experiment: Experiment, *, fresh: bool) -> None:
        """Create the folder and write ``experiment.toml``; if ``fresh``, delete existing runs first."""
        if fresh:
            # Only what bnkit wrote: other files in the folder are the user's.
            for run in self.path.glob("runs/*"):
                if _RUN_ID.fullmatch(run.name) and run.is_dir() and not run.is_symlink():
                    _remove_run(run)
            for file in (self.results_file, self.report_file, self.experiment_file):
                file.unlink(missing_ok=True)
            forget_budget_end(self.path)
            earlier_compare_calls.forget_all(self.path)
            self._records.clear()
        try:
            atomic_files.make_folder(self.path / "runs")
            atomic_files.make_folder(self.path / earlier_compare_calls.CALLS)
        except OSError as error:
            raise atomic_files.UnwritableError.of(self.path / "runs", error) from error
        text = experiment.to_toml()
        earlier_compare_calls.remember(self.path, text, self.experiment_file)
        self.replace(self.experiment_file, text)
        self._runs = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock this folder for writing.

        Raises:
            RecordError: If another process holds the lock, the folder cannot be written, or files that bnkit did not write
                would be replaced.
        """
        self.refuse_foreign()
        try:
            atomic_files.make_folder(self.path)
            # The system releases it when the process ends, after kill -9 too.
            lock = FileLock(self.path / overwrite_protection.LOCK, timeout=0)
            lock.acquire()
        except Timeout as error:
            raise RecordError(f"another bnkit is writing to {self.path}; wait for it, or use another `out`") from error
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be written ({error.strerror or error}); expected a folder that can: use another `out`"
            ) from error
        try:
            overwrite_protection.mark(self.path, (*_WRITTEN, *_LOGS))
            yield
        finally:
            lock.release()

    def write_results(self, plan: Plan) -> None:
        """Write ``results.csv`` for all runs of ``plan``, and those of earlier calls that answer the same question."""
        began = time.monotonic()
        plan = self.runs(plan).plan
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns(plan))
        for run in plan:
            table.writerows(rows(run, self.record(run), plan))
        self.replace(self.results_file, text.getvalue())
        self._next_csv = time.monotonic() + (time.monotonic() - began) / _SHARE_OF_TIME

    def refresh_results(self, plan: Plan) -> None:
        """Write ``results.csv`` unless it was written so recently that this would slow the training down."""
        if time.monotonic() >= self._next_csv:
            self.write_results(plan)

    def replace(self, path: Path, content: str) -> None:
        """Replace a file atomically."""
        atomic_files.replace(path, content.encode())


def results_path(path: str | Path) -> Path:
    """``path`` as a results folder.

    Raises:
        SettingsError: If it is empty, which would mean the working directory.
    """
    if not str(path).strip():
        raise SettingsError("out is empty; expected the path of a folder, or None for results/<name>")
    return Path(path)


def _why_no_experiment(path: Path) -> str:
    if path.is_dir():
        return f"{path} holds no experiment.toml"
    return f"{path} is a file" if path.exists() else f"{path} does not exist"


def _hint(path: Path) -> str:
    """The results folder that ``path`` lies in, or those in it, as the end of a message; empty if there are none."""
    around = [folder for folder in path.parents if (folder / "experiment.toml").is_file()]
    inside = sorted(file.parent for file in path.glob("*/experiment.toml")) if path.is_dir() else []
    known = around[:1] or inside
    return f", as {' or '.join(map(str, known[:_NAMED]))}" if known else ""


def _remove_run(run: Path) -> None:
    """Delete the files of a run, and its folder if that is empty then."""
    for pattern in _FILES_OF_A_RUN:
        for file in run.glob(pattern):
            file.unlink()
    with suppress(OSError):  # it is not empty
        run.rmdir()


def columns(plan: Plan) -> tuple[str, ...]:
    """The header of ``results.csv``."""
    of_metric = () if plan.task.is_accuracy else _METRIC_COLUMNS
    return (
        *("run", "run_id", "network", "seed"),
        *plan.experiment.grid.explicit_keys,
        *("epoch", "loss", "accuracy", "test_loss", "test_accuracy", "test_accuracy_population"),
        *("epoch_duration", "run_duration", "examples_per_second", "status"),
        *of_metric,
    )


def rows(run: Run, record: Record, plan: Plan) -> Iterator[tuple[object, ...]]:
    """The rows of one run: one for each epoch, or a single one if it ended before the first."""
    if record.status is None or (record.status is Status.RUNNING and not record.epochs):
        return
    of_metric = () if run.task.is_accuracy else _METRIC_COLUMNS
    settings = tuple(getattr(run.settings, key) for key in plan.experiment.grid.explicit_keys)
    ended_early: list[Epoch | None] = [None]
    for epoch in record.epochs or ended_early:
        yield (
            *(run.number, run.run_id, run.network.key, run.seed),
            *settings,
            *_figures(epoch, record.status),
            record.status.value,
            *(None if epoch is None else getattr(epoch, name) for name in of_metric),
        )


def _figures(epoch: Epoch | None, status: Status) -> tuple[object, ...]:
    if epoch is None:
        return (None,) * 9
    # A run diverges only by its training loss.
    loss = math.nan if epoch.loss is None and status is Status.DIVERGED else epoch.loss
    return (
        *(epoch.epoch, loss, epoch.accuracy, epoch.test_loss, epoch.test_accuracy, epoch.test_accuracy_population),
        *(epoch.epoch_duration, epoch.run_duration, epoch.examples_per_second),
    )
