"""Logs figures to MLflow, where parameters and tags identify network, settings and seed. Needs no torch."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from bnkit.experiments.plan import Run
from bnkit.experiments.records.run_epochs_file import Epoch, Status
from bnkit.integrations.extras import require_extra
from bnkit.integrations.run_logger import RunLogger, ServiceRun, figures, flat_settings

_STATUSES = {Status.FAILED: "FAILED", Status.RUNNING: "KILLED"}


class MlflowLogger(RunLogger):
    """One MLflow run for each run of the plan: settings as its parameters, figures by epoch.

    MLflow's environment variables apply: ``MLFLOW_TRACKING_URI`` (otherwise ``<folder>/mlflow/mlflow.db``) and
    ``MLFLOW_EXPERIMENT_NAME`` (otherwise the name of the experiment).

    Args:
        folder: The results folder.

    Raises:
        SettingsError: MLflow, or a package that its local store needs, is not installed.
    """

    name = "mlflow"
    title = "MLflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        require_extra(self.title, "mlflow", "mlflow")
        self._uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not self._uri:
            for package in ("sqlalchemy", "alembic"):
                require_extra("MLflow's local store", package, "mlflow")
        self._client: Any = None
        self._experiment_id = ""

    def open_run(self, run: Run, known_id: str | None) -> ServiceRun:
        from mlflow.entities import Param, RunTag

        if self._client is None:
            self._connect()
        if known_id is not None:
            self._client.update_run(known_id, status="RUNNING")
            return _MlflowRun(self._client, self._client.get_run(known_id).info)
        info = self._client.create_run(self._experiment_id, run_name=self.title_of(run)).info
        settings = flat_settings(run)
        self._client.log_batch(
            info.run_id,
            params=[Param(key, str(value)) for key, value in settings.items() if value is not None],
            tags=[RunTag("group", self.group(run)), RunTag("bnkit.run_id", run.run_id)],
        )
        return _MlflowRun(self._client, info)

    def _connect(self) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs every table that it creates
        local = self.path.absolute()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's warnings about the tables of MLflow
            if not self._uri:
                local.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=self._uri or f"sqlite:///{local / 'mlflow.db'}")
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.experiment
            known = client.get_experiment_by_name(name)
        if known is not None:
            self._experiment_id = known.experiment_id
        else:
            where = None if self._uri else (local / "artifacts").as_uri()
            self._experiment_id = client.create_experiment(name, artifact_location=where)
        self._client = client


class _MlflowRun(ServiceRun):
    def __init__(self, client: Any, info: Any) -> None:
        self._client, self.id, self._start = client, info.run_id, info.start_time

    def log(self, epoch: Epoch) -> None:
        from mlflow.entities import Metric

        # Timestamps are the time in training: if a killed call logged figures without noting it, they are logged again as duplicates,
        # which MLflow counts once.
        milliseconds = self._start + round(1000 * epoch.run_duration)
        self._client.log_batch(
            self.id, metrics=[Metric(name, value, milliseconds, epoch.epoch) for name, value in figures(epoch).items()]
        )

    def end(self, status: Status) -> None:
        self._client.set_tag(self.id, "status", status.value)
        self._client.set_terminated(self.id, _STATUSES.get(status, "FINISHED"))
