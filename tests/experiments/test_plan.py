from __future__ import annotations

import pytest

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import NetworkIdentity, ResolvedExperiment, parse_experiment
from bnkit.experiments.plan import plan

BASE = {"name": "p", "networks": ["two-cnn"], "grid": {"lr": [0.1, 0.2]}, "seeds": 2, "epochs": 3}


def _plan(change=None, **settled):
    facts = {
        "threads": 2,
        "device": "cpu",
        "data": "digest",
        "networks": [
            NetworkIdentity(key="no_batch_norm", identity="two-cnn/no_batch_norm"),
            NetworkIdentity(key="batch_norm", identity="two-cnn/batch_norm", kernel="aten"),
        ],
    }
    experiment = parse_experiment({**BASE, **(change or {})}, "here")
    return plan(experiment.model_copy(update={"settled": ResolvedExperiment(**{**facts, **settled})}))


def test_seeds_are_outermost_and_networks_innermost():
    runs = [(run.number, run.seed, run.settings.lr, run.network.key) for run in _plan()]
    assert runs == [
        (1, 0, 0.1, "no_batch_norm"), (2, 0, 0.1, "batch_norm"), (3, 0, 0.2, "no_batch_norm"), (4, 0, 0.2, "batch_norm"),
        (5, 1, 0.1, "no_batch_norm"), (6, 1, 0.1, "batch_norm"), (7, 1, 0.2, "no_batch_norm"), (8, 1, 0.2, "batch_norm"),
    ]  # fmt: skip


def test_a_later_setting_at_its_default_leaves_the_hash_and_counts_elsewhere():
    assert not {"width", "memory_format"} & _plan().runs[0].content["settings"].keys()
    assert _plan({"grid": {"lr": 0.1, "width": 64}}).runs[0].content["settings"]["width"] == 64


def test_run_ids_are_the_same_in_every_process():
    """A change of this value makes everybody's records unknown: it needs a new FORMAT."""
    assert _plan().runs[1].run_id == "3703ee854f47"
    assert len({run.run_id for run in _plan()}) == 8


@pytest.mark.parametrize(
    ("change", "settled"),
    [
        ({"epochs": 4}, {}),
        ({"validation": 0.2}, {}),
        ({"drop_last": True}, {}),
        ({"grid": {"lr": [0.1, 0.2], "momentum": [0.9]}}, {}),
        ({}, {"threads": 3}),
        ({}, {"device": "cuda"}),
        ({}, {"data": "another"}),
        ({}, {"networks": [NetworkIdentity(key="batch_norm", identity="two-cnn/batch_norm", kernel="reference")]}),
    ],
)
def test_settings_that_can_change_a_result_change_the_run_id(change, settled):
    assert not {run.run_id for run in _plan()} & {run.run_id for run in _plan(change, **settled)}


@pytest.mark.parametrize(
    "change", [{"name": "q"}, {"about": "?"}, {"show": ["epochs"]}, {"seeds": 3}, {"grid": {"lr": [0.05, 0.1, 0.2]}}]
)
def test_settings_that_cannot_change_a_result_keep_the_run_id(change):
    assert {run.run_id for run in _plan()} <= {run.run_id for run in _plan(change)}


def test_auto_is_resolved_before_the_hash():
    assert {run.settings.device for run in _plan({"grid": {"lr": 0.1, "device": "auto"}})} == {"cpu"}
    assert _plan({"grid": {"lr": 0.1, "device": "cpu"}}).runs[0].run_id == _plan({"grid": {"lr": 0.1}}).runs[0].run_id


def test_momentum_goes_with_sgd_only():
    with pytest.raises(SettingsError, match="momentum=0.9 with optimizer=adam; expected optimizer sgd, or momentum 0"):
        _plan({"grid": {"lr": 0.1, "momentum": 0.9, "optimizer": ["sgd", "adam"]}})


@pytest.mark.slow
def test_ten_thousand_runs_are_all_different():
    runs = _plan({"seeds": 2500}).runs
    assert len({run.run_id for run in runs}) == len(runs) == 10_000


def test_a_setting_without_effect_on_a_network_does_not_multiply_its_runs():
    grid = {"lr": [0.1, 0.2], "bn_momentum": [0.01, 0.1, "default"]}
    ignored = {"no_batch_norm": ("bn_momentum",)}
    planned = _plan({"grid": grid, "seeds": 1}, ignored=ignored)
    runs = [(run.number, run.network.key, run.settings.lr, run.settings.bn_momentum) for run in planned]
    assert runs == [
        (1, "no_batch_norm", 0.1, None), (2, "batch_norm", 0.1, 0.01),
        (3, "batch_norm", 0.1, 0.1), (4, "batch_norm", 0.1, "default"),
        (5, "no_batch_norm", 0.2, None), (6, "batch_norm", 0.2, 0.01),
        (7, "batch_norm", 0.2, 0.1), (8, "batch_norm", 0.2, "default"),
    ]  # fmt: skip
    assert planned.varying == ("lr", "bn_momentum")
    without_key = {run.run_id for run in _plan({"seeds": 1})}
    assert {run.run_id for run in planned} >= without_key
