"""Base of the loggers of figures: a service run for each run of the plan, resumed, with each figure logged once. Needs no torch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from bnkit.console import warn
from bnkit.experiments.callbacks import Callback, Event
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.report.tables import format_setting

# The figures of an epoch to log, under the names of results.csv.
FIGURES = (
    *("loss", "accuracy", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy"),
    *("metric", "validation_metric", "test_metric", "test_metric_population"),
    *("test_accuracy_population", "gradient_norm", "epoch_duration", "examples_per_second"),
)


def figures(epoch: Epoch) -> dict[str, float]:
    """The figures of ``epoch`` to log, without those that were not measured."""
    known = {name: getattr(epoch, name) for name in FIGURES}
    return {name: value for name, value in known.items() if value is not None}


class ServiceRun(ABC):
    """A run of the service, open.

    Attributes:
        id: The id by which the service finds it.
    """

    id: str

    @abstractmethod
    def log(self, epoch: Epoch) -> None:
        """Log the figures of ``epoch``; its number is their step."""

    @abstractmethod
    def end(self, status: Status) -> None:
        """Close the run with its status; one that is interrupted and will be resumed is "running"."""


@dataclass
class _Logged:
    """How much of a run was logged, kept on disk for later calls."""

    id: str
    epochs: int = 0
    status: str = Status.RUNNING


class RunLogger(Callback, ABC):
    """Logs the figures of each epoch to a service. A subclass says how a run of it is opened.

    A resumed run of the plan resumes its run of the service. Runs that were recorded before they could be logged are logged
    from their records. If the service raises, the logger stops for this call with a warning, and the next call logs what is missing.

    Args:
        folder: The results folder. ``<folder>/<name>/logged`` records how much of each run was logged.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.name
        self.plan: Plan | None = None
        self._open: dict[Run, ServiceRun] = {}
        self._logged: dict[Run, _Logged] = {}
        self._is_given_up = False

    @abstractmethod
    def open_run(self, run: Run, known_id: str | None) -> ServiceRun:
        """Open a new run of the service for ``run``, or resume the interrupted one with ``known_id``."""

    def __call__(self, event: Event) -> None:
        if self._is_given_up:
            return
        try:
            super().__call__(event)
        except Exception as error:
            self._is_given_up = True
            reason = " ".join(str(error).split())
            warn(
                f"{self.title} is given up for now ({type(error).__name__}: {reason}); the comparison continues, and the same "
                "call logs what is missing"
            )

    def plan_started(self, plan: Plan, done: Mapping[Run, Record]) -> None:
        self.plan = plan
        for run, record in done.items():
            self.run_ended(run, record)
        for run in plan:
            # A run that had ended and is trained again gets a new run of the service.
            if run not in done and (known := self._known(run)) is not None and known.status != Status.RUNNING:
                self._forget(run)

    def run_started(self, run: Run, record: Record) -> None:
        known = self._known(run)
        if known is not None and known.epochs > len(record.epochs):  # it starts from scratch
            self._forget(run)
        self._log(run, record.epochs)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self._log(run, [epoch])

    def run_ended(self, run: Run, record: Record) -> None:
        known = self._known(run)
        status = record.status or Status.RUNNING
        if known is not None and (known.status, known.epochs) == (status, len(record.epochs)):
            return
        self._log(run, record.epochs)
        self._open.pop(run).end(status)
        self._logged[run].status = status
        self._write(run)

    def close(self) -> None:
        """Close the open runs, because the call was interrupted or the service given up."""
        for service_run in self._open.values():
            with suppress(Exception):  # a service that does not answer was already reported
                service_run.end(Status.RUNNING)
        self._open.clear()

    def _log(self, run: Run, epochs: Sequence[Epoch]) -> None:
        known = self._known(run)
        if run not in self._open:
            self._open[run] = self.open_run(run, None if known is None else known.id)
        if known is None:
            known = self._logged[run] = _Logged(self._open[run].id)
            self._write(run)
        for epoch in epochs:
            if epoch.epoch > known.epochs:
                self._open[run].log(epoch)
                known.epochs = epoch.epoch
                self._write(run)

    def _known(self, run: Run) -> _Logged | None:
        if run not in self._logged:
            try:
                self._logged[run] = _Logged(**json.loads(self._file(run).read_bytes()))
            except (OSError, ValueError, TypeError):
                return None
        return self._logged[run]

    def _write(self, run: Run) -> None:
        file = self._file(run)
        atomic_files.make_folder(file.parent)
        atomic_files.replace(file, json.dumps(asdict(self._logged[run])).encode())

    def _forget(self, run: Run) -> None:
        self._logged.pop(run, None)
        self._file(run).unlink(missing_ok=True)
        if (service_run := self._open.pop(run, None)) is not None:
            service_run.end(Status.FAILED)

    def _file(self, run: Run) -> Path:
        return self.path / "logged" / f"{run.run_id}.json"

    @property
    def experiment(self) -> str:
        """The name of the experiment."""
        assert self.plan is not None
        return self.plan.experiment.name

    def group(self, run: Run) -> str:
        """The group of runs that differ in their seeds only, such as ``batch_norm lr=0.1``."""
        assert self.plan is not None
        varying = (f"{key}={format_setting(getattr(run.settings, key))}" for key in self.plan.varying)
        return " ".join([run.network.key, *varying])

    def title_of(self, run: Run) -> str:
        """The title of a run in the service: ``batch_norm lr=0.1 seed=0``."""
        return f"{self.group(run)} seed={run.seed}"


def flat_settings(run: Run) -> dict[str, Any]:
    """All settings of ``run``, flat, under the names of the columns of results.csv."""
    return {
        "network": run.network.key,
        "seed": run.seed,
        **run.settings.model_dump(),
        "epochs": run.epochs,
        "data": run.data,
        "validation": run.validation,
        "drop_last": run.drop_last,
        "threads": run.threads,
        "run": run.number,
        "run_id": run.run_id,
    }
