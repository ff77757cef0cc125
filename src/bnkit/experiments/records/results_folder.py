"""The folder of an experiment: what lies where, who may write, and ``results.csv``. Needs no torch."""

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
from bnkit.experiments.records import atomic_files, marker
from bnkit.experiments.records.record import CorruptRecordError, Epoch, Record, RecordFile, Status

_RUN_ID = re.compile(r"[0-9a-f]{12}")
_FILES_OF_A_RUN = (
    "record.jsonl",
    "record.garbled-*.jsonl",
    "weights.safetensors",
    "epoch-*.safetensors",
    "checkpoint.pt",
    ".running",
    ".*.new",
)
# What a comparison writes.
_WRITTEN = ("experiment.toml", "results.csv", "report.html", "runs", marker.LOCK)
# Writing results.csv may take this share of the time, however many runs there are.
_SHARE_OF_TIME = 0.02
# Further columns of results.csv where networks are judged by a metric of the experiment's own.
_METRIC_COLUMNS = ("metric", "test_metric", "test_metric_population")


class ResultsFolder:
    """The results of one experiment on disk.

    ``experiment.toml`` says what was asked for, ``runs/<id>/record.jsonl`` what came out, one file a run;
    ``results.csv`` and ``report.html`` are made from those and can be made again. A marker says that bnkit wrote them.

    Args:
        path: Where; ``~`` is the home folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        self._records: dict[str, Record] = {}
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
        """Where everything about ``run`` lies."""
        return self.path / "runs" / run.run_id

    def record_file(self, run: Run) -> RecordFile:
        """The record of ``run``."""
        return RecordFile(self.run_folder(run) / "record.jsonl")

    def record(self, run: Run) -> Record:
        """What is known of ``run``: read once, then kept up to date by ``note``. A garbled record is set aside."""
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
        """Read the record of ``run`` from disk when it is next asked for."""
        self._records.pop(run.run_id, None)

    def experiment(self) -> Experiment:
        """The experiment that was last run here.

        Raises:
            RecordError: There is none, or it was not run here.
            SettingsError: Its file cannot be read.
        """
        if not self.experiment_file.is_file():
            raise RecordError(f"{self.path} holds no experiment.toml; expected a folder that bnkit compare wrote")
        experiment = parse_experiment(read_experiment(self.experiment_file), str(self.experiment_file))
        if experiment.settled is None:
            raise RecordError(
                f"{self.experiment_file} was not written by a comparison; expected a folder that bnkit compare wrote"
            )
        return experiment

    def refuse_foreign(self, *further: str) -> None:
        """Make sure that a comparison can be written here without replacing a file that bnkit did not write.

        Args:
            further: Names of what else will be written, as ``tensorboard``.

        Raises:
            RecordError: Such a file is there, or the folder is a file.
        """
        marker.refuse_foreign(self.path, (*_WRITTEN, *further))

    def begin(self, experiment: Experiment, *, fresh: bool) -> None:
        """Make the folder and write ``experiment.toml``; if ``fresh``, delete the runs that are there first."""
        if fresh:
            # Nothing but what bnkit wrote: other files in the folder are the user's.
            for run in self.path.glob("runs/*"):
                if _RUN_ID.fullmatch(run.name) and run.is_dir() and not run.is_symlink():
                    _remove_run(run)
            for file in (self.results_file, self.report_file, self.experiment_file):
                file.unlink(missing_ok=True)
            self._records.clear()
        try:
            atomic_files.make_folder(self.path / "runs")
        except OSError as error:
            raise atomic_files.UnwritableError.of(self.path / "runs", error) from error
        self.replace(self.experiment_file, experiment.to_toml())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer of this folder.

        Raises:
            RecordError: Another process is, the folder cannot be written, or it holds files that bnkit would replace and did
                not write.
        """
        self.refuse_foreign()
        try:
            atomic_files.make_folder(self.path)
            # The system releases it with the process, also after kill -9.
            lock = FileLock(self.path / marker.LOCK, timeout=0)
            lock.acquire()
        except Timeout as error:
            raise RecordError(f"another bnkit is writing to {self.path}; wait for it, or use another --out") from error
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be written ({error.strerror or error}); expected a folder that can: use another --out"
            ) from error
        try:
            marker.mark(self.path, (*_WRITTEN, "tensorboard"))
            yield
        finally:
            lock.release()

    def write_results(self, plan: Plan) -> None:
        """Write ``results.csv`` for all runs of ``plan``."""
        began = time.monotonic()
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns(plan))
        for run in plan:
            table.writerows(rows(run, self.record(run), plan))
        self.replace(self.results_file, text.getvalue())
        self._next_csv = time.monotonic() + (time.monotonic() - began) / _SHARE_OF_TIME

    def refresh_results(self, plan: Plan) -> None:
        """Write ``results.csv`` if that was long enough ago not to slow the training down."""
        if time.monotonic() >= self._next_csv:
            self.write_results(plan)

    def replace(self, path: Path, content: str) -> None:
        """Write a whole file, so that a reader or a crash sees either the old one or the new one."""
        atomic_files.replace(path, content.encode())


def results_path(path: str | Path) -> Path:
    """The path of a results folder, as a caller of the library gives it.

    Raises:
        SettingsError: It is empty, which would mean the working directory.
    """
    if not str(path).strip():
        raise SettingsError("out is empty; expected the path of a folder, or None for results/<name>")
    return Path(path)


def _remove_run(run: Path) -> None:
    """Remove the files of a run, and its folder unless it holds other files."""
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
    """The rows of one run: a row for each epoch, and one for a run that ended before its first."""
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
    # Only training itself ends a run for a loss that is not finite.
    loss = math.nan if epoch.loss is None and status is Status.DIVERGED else epoch.loss
    return (
        *(epoch.epoch, loss, epoch.accuracy, epoch.test_loss, epoch.test_accuracy, epoch.test_accuracy_population),
        *(epoch.epoch_duration, epoch.run_duration, epoch.examples_per_second),
    )
