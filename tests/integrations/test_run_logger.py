"""One run of a service for each run of the plan, whatever interrupts either: with a service in memory."""

from __future__ import annotations

import sys

import pytest

import bnkit
from bnkit.experiments.records.run_epochs_file import Status
from bnkit.integrations.loggers import logger_names, loggers
from bnkit.integrations.run_logger import FIGURES, RunLogger, ServiceRun
from tests.cli.cli_runner import QUICK_COMPARE, invoke
from tests.experiments import tiny_experiment

pytestmark = pytest.mark.slow  # each test trains


class _Service:
    """Runs by their number there, each the steps that it got, in their order, and what was said at the end."""

    def __init__(self):
        self.steps, self.ends, self.titles, self.groups = {}, {}, {}, {}
        self.breaks_at = None


class _Logger(RunLogger):
    name, title = "wandb", "The service"

    def __init__(self, folder, service):
        super().__init__(folder)
        self.service = service

    def open_run(self, run, known_id):
        number = known_id or str(len(self.service.steps))
        self.service.steps.setdefault(number, [])
        self.service.titles[number], self.service.groups[number] = self.title_of(run), self.group(run)
        return _InMemory(number, self.service)


class _InMemory(ServiceRun):
    def __init__(self, number, service):
        self.id, self.service = number, service

    def log(self, epoch):
        if sum(map(len, self.service.steps.values())) == self.service.breaks_at:
            raise ConnectionError("no\nanswer")
        self.service.steps[self.id].append(epoch.epoch)

    def end(self, status):
        self.service.ends.setdefault(self.id, []).append(status)


class _InterruptAfter(bnkit.Callback):
    def __init__(self, epochs):
        self.left = epochs

    def epoch_done(self, run, epoch):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def _compare(folder, service, *more, networks=tiny_experiment.NETWORKS, **changes):
    logger = _Logger(folder, service)
    try:
        return bnkit.compare(
            networks,
            tiny_experiment.data(),
            **{**tiny_experiment.EXPERIMENT, "grid": {"lr": [0.05, 0.5], "batch_size": [16]}, "seeds": 1, **changes},
            out=folder,
            callbacks=[logger, *more],
        )
    finally:
        logger.close()


ALL = {str(number): [1, 2, 3] for number in range(4)}


def test_each_run_has_one_there_with_every_epoch(tmp_path):
    service = _Service()
    _compare(tmp_path, service)
    assert service.steps == ALL
    assert service.ends == {key: [Status.FINISHED] for key in ALL}
    assert service.titles["3"] == "batch_norm lr=0.5 seed=0"
    assert service.groups == {
        "0": "no_batch_norm lr=0.05", "1": "batch_norm lr=0.05", "2": "no_batch_norm lr=0.5", "3": "batch_norm lr=0.5",
    }  # fmt: skip


def test_a_second_call_logs_nothing_twice(tmp_path):
    service = _Service()
    _compare(tmp_path, service)
    _compare(tmp_path, service)
    assert (service.steps, service.ends) == (ALL, {key: [Status.FINISHED] for key in ALL})


def test_a_resumed_run_resumes_its_run_there(tmp_path):
    service = _Service()
    with pytest.raises(KeyboardInterrupt):
        _compare(tmp_path, service, _InterruptAfter(5))
    assert service.steps == {"0": [1, 2, 3], "1": [1, 2]}
    assert service.ends == {"0": [Status.FINISHED], "1": [Status.RUNNING]}
    _compare(tmp_path, service)
    assert service.steps == ALL
    assert service.ends["1"] == [Status.RUNNING, Status.FINISHED]


def test_what_was_recorded_without_a_logger_is_logged_from_the_records(tmp_path):
    bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        **{**tiny_experiment.EXPERIMENT, "seeds": 1},
        out=tmp_path,
    )
    service = _Service()
    _compare(tmp_path, service)
    assert service.steps == ALL


def test_fresh_runs_are_other_runs_there(tmp_path):
    service = _Service()
    changes = {"grid": {"lr": [0.05], "batch_size": [16]}}
    _compare(tmp_path, service, **changes)
    _compare(tmp_path, service, fresh=True, **changes)
    assert service.steps == ALL


def test_a_service_that_fails_ends_no_run_and_gets_the_rest_later(tmp_path, capsys):
    service = _Service()
    service.breaks_at = 4
    comparison = _compare(tmp_path, service)
    assert len(comparison.rows) == 12
    assert "The service is given up for now (ConnectionError: no answer)" in " ".join(capsys.readouterr().err.split())
    assert service.steps == {"0": [1, 2, 3], "1": [1]}
    service.breaks_at = None
    _compare(tmp_path, service)
    assert service.steps == ALL


class _Fails(bnkit.Callback):
    def __init__(self):
        self.statuses = []

    def run_ended(self, run, record):
        self.statuses.append(record.status)


def _not_twice():
    import torch

    class Fails(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.steps = tiny_experiment.with_batch_norm(), 0

        def forward(self, x):
            self.steps += self.training
            if self.steps > 7:
                raise RuntimeError("seven are enough")
            return self.inner(x)

    return Fails()


def test_a_failed_run_is_marked_and_its_next_try_is_another_run_there(tmp_path):
    service, networks = _Service(), {"no_batch_norm": tiny_experiment.plain, "batch_norm": _not_twice}
    for _ in range(2):
        _compare(tmp_path, service, networks=networks, grid={"lr": [0.05], "batch_size": [16]})
    assert service.steps == {"0": [1, 2, 3], "1": [1], "2": [1]}
    assert service.ends == {"0": [Status.FINISHED], "1": [Status.FAILED], "2": [Status.FAILED]}


def test_figures_have_the_names_of_the_results(tmp_path):
    comparison = _compare(tmp_path, _Service(), grid={"lr": [0.05], "batch_size": [16]})
    assert {"loss", "accuracy", "test_loss", "test_accuracy", "test_accuracy_population"} < set(FIGURES)
    assert set(FIGURES) & comparison.rows[0].keys() > {"loss", "test_accuracy", "epoch_duration", "examples_per_second"}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("wandbb", "unknown logger 'wandbb'; expected one of tensorboard, wandb, mlflow; did you mean 'wandb'?"),
        ([3], r"log=\[3\]; expected names of loggers: tensorboard, wandb, mlflow"),
    ],
)
def test_an_unknown_logger_is_refused(log, message):
    with pytest.raises(bnkit.errors.SettingsError, match=message):
        logger_names(log)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("tensorboard", "tensorboardX", r"TensorBoard needs tensorboardX, .*; pip install 'bnkit\[tensorboard\]'$"),
        ("wandb", "wandb", r"W&B needs wandb, which is not installed; pip install 'bnkit\[wandb\]'$"),
        ("mlflow", "mlflow", r"MLflow needs mlflow, which is not installed; pip install 'bnkit\[mlflow\]'$"),
        ("mlflow", "alembic", r"MLflow's local store needs alembic, .*; pip install 'bnkit\[mlflow\]'$"),
    ],
)
def test_a_package_that_is_not_there_is_told_with_what_installs_it(name, module, message, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(bnkit.errors.SettingsError, match=message):
        loggers((name,), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_on_the_command_line_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for log, said in (
        ("mlflw", "unknown logger 'mlflw'"),
        ("tensorboard, wandb", "W&B needs wandb, which is not installed"),
    ):
        result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", str(tmp_path / "r"), "--log", log)
        assert result.status == 2
        assert said in result.err
        assert not (tmp_path / "r").exists()
