"""W&B offline and MLflow's local store, written by two workers, read back as their own tables read them."""

from __future__ import annotations

import pytest

import bnkit
from bnkit.integrations.run_logger import FIGURES, flat_settings
from tests.experiments import tiny_experiment
from tests.integrations.wandb_files import offline_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]
EXPERIMENT = {"grid": {"lr": [0.05], "batch_size": [16]}, "seeds": 2, "epochs": 2, "validation": 0.2}


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """No network, no settings of the user who runs the tests, and no process left behind."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        for name, value in {
            "WANDB_CONFIG_DIR": str(home), "WANDB_CACHE_DIR": str(home), "WANDB_DATA_DIR": str(home), "NETRC": str(home / "netrc"),
        }.items():  # fmt: skip
            patch.setenv(name, value)
        for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.chdir(home)
        yield
        assert not {path.name for path in home.iterdir()} & {"mlruns", "mlflow.db"}
        import wandb

        wandb.teardown()


def _compare(folder, **changes):
    return bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        **{**EXPERIMENT, **changes},
        name="tiny",
        log=("wandb", "mlflow"),
        out=folder,
    )


@pytest.fixture(scope="module")
def comparison(services, tmp_path_factory):
    return _compare(tmp_path_factory.mktemp("r") / "r", workers=2)


def _figures(comparison, run):
    return {
        epoch.epoch: {name: value for name in FIGURES if (value := getattr(epoch, name)) is not None}
        for epoch in comparison.records[run.run_id].epochs
    }


def _mlflow(folder):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")


def test_wandb_has_a_run_for_each_with_its_settings_and_figures(comparison):
    runs = {run.config["run_id"]: run for run in offline_runs(comparison.folder.path / "wandb")}
    assert runs.keys() == {run.run_id for run in comparison.plan}
    for run in comparison.plan:
        logged = runs[run.run_id]
        expected = {step: {"epoch": step, **values} for step, values in _figures(comparison, run).items()}
        assert logged.history == {step: pytest.approx(values) for step, values in expected.items()}
        assert logged.config == flat_settings(run)
        key = run.network.key
        assert (logged.project, logged.group, logged.job_type) == ("tiny", key, key)
        assert (logged.name, logged.summary["status"], logged.exit_code) == (f"{key} seed={run.seed}", "finished", 0)


def test_mlflow_has_a_run_for_each_with_its_settings_and_figures(comparison):
    client = _mlflow(comparison.folder.path)
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.data.tags["bnkit.run_id"]: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {run.run_id for run in comparison.plan}
    for run in comparison.plan:
        logged, expected = runs[run.run_id], _figures(comparison, run)
        for name in expected[1]:
            history = client.get_metric_history(logged.info.run_id, name)
            assert {entry.step: entry.value for entry in history} == {
                step: values[name] for step, values in expected.items()
            }
        assert logged.data.params == {k: str(value) for k, value in flat_settings(run).items() if value is not None}
        assert (logged.data.tags["group"], logged.data.tags["status"]) == (run.network.key, "finished")
        assert (logged.info.run_name, logged.info.status) == (f"{run.network.key} seed={run.seed}", "FINISHED")


def test_their_own_table_aggregates_over_seeds(comparison):
    table = _table(_mlflow(comparison.folder.path))
    rows = [row for row in comparison.rows if row["epoch"] == 2]
    for key in tiny_experiment.NETWORKS:
        values = [row["test_accuracy"] for row in rows if row["network"] == key]
        assert table[key] == pytest.approx(sum(values) / len(values))


def _table(client):
    """The mean of the last test accuracy by network."""
    import pandas as pd

    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    frame = pd.DataFrame([{**run.data.params, **run.data.metrics} for run in runs])
    return frame.groupby("network")["test_accuracy"].mean()


def test_logging_changes_no_figure(comparison, tmp_path):
    unlogged = bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), **EXPERIMENT, threads=1, out=tmp_path)
    assert tiny_experiment.figures(unlogged) == tiny_experiment.figures(comparison)


class _Interrupt(bnkit.Callback):
    def epoch_done(self, run, epoch):
        raise KeyboardInterrupt


def test_an_interrupted_run_is_resumed_under_its_id(services, tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        bnkit.compare(
            tiny_experiment.NETWORKS, tiny_experiment.data(), **{**EXPERIMENT, "seeds": 1}, name="tiny", out=folder,
            log="wandb,mlflow", callbacks=[_Interrupt()],
        )  # fmt: skip
    for _ in range(2):  # and with nothing left to train nothing is logged
        _compare(folder, seeds=1)
        runs = offline_runs(folder / "wandb")
        assert [sorted(run.history) for run in runs] == [[1], [2], [1, 2]]
        assert runs[0].id == runs[1].id != runs[2].id
        client = _mlflow(folder)
        logged = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
        assert [run.info.status for run in logged] == ["FINISHED"] * 2
        steps = [[entry.step for entry in client.get_metric_history(run.info.run_id, "loss")] for run in logged]
        assert steps == [[1, 2]] * 2


def test_without_a_login_wandb_writes_offline_and_says_how_to_upload(services, tmp_path, monkeypatch, capsys):
    import wandb

    from bnkit.integrations.wandb_logger import WandbLogger

    monkeypatch.delenv("WANDB_MODE")
    assert WandbLogger(tmp_path)._find_mode(wandb) == "offline"
    said = " ".join(capsys.readouterr().err.split())
    assert f"runs are written to {tmp_path}/wandb; after `wandb login`, `wandb sync" in said
