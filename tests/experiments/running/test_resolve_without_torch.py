"""What names say is what is found when everything is loaded."""

from __future__ import annotations

import pytest

from bnkit.data import DATA_SETS, load
from bnkit.experiments.built_in_networks import ARCHITECTURE_NAMES, ARM_KERNELS
from bnkit.experiments.experiment import ResolvedExperiment, TaskIdentity, parse_experiment
from bnkit.experiments.networks import ARCHITECTURES, ARMS
from bnkit.experiments.resolve_experiment import resolve_experiment
from bnkit.experiments.running.resolve_without_torch import resolve_by_name

BEFORE = ResolvedExperiment(threads=3, device="cpu", data="as it was", networks=())
BASE = {"name": "n", "networks": ["two-cnn"], "grid": {"lr": [0.1]}, "seeds": 1, "epochs": 1}


def _experiment(change):
    return parse_experiment({**BASE, **change}, "here")


def test_every_network_and_every_arm_has_its_name():
    assert set(ARCHITECTURE_NAMES) == ARCHITECTURES.keys()
    assert {name: arm.kernel for name, arm in ARMS.items()} == ARM_KERNELS


def test_the_digest_of_the_embedded_data_is_known_without_reading_them():
    assert DATA_SETS["digits"].digest() == load("digits").digest


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"threads": 2},
        {"networks": ["mlp", "lenet"], "arms": ["batch_norm", "group_norm", "reference"]},
        {"train_examples": 100},
        {"train_examples": 90, "test_examples": 50},
        {"loss": "cross_entropy", "metric": "accuracy"},
        {"grid": {"lr": [0.1], "device": ["cpu"]}},
    ],
    ids=str,
)
def test_names_say_what_loading_finds(change):
    experiment = _experiment(change)
    loaded, _ = resolve_experiment(experiment, before=BEFORE)
    assert resolve_by_name(experiment, BEFORE) == loaded.experiment.settled
    assert loaded.task == TaskIdentity()
    assert not load("digits").remarks()  # none is left out by not loading them


@pytest.mark.parametrize(
    ("change", "before"),
    [
        ({"networks": ["nets.py:make"]}, {}),
        ({"networks": ["unknown"]}, {}),
        ({"arms": ["unknown"]}, {}),
        ({"data": "data.py:data"}, {}),
        ({"loss": "nll_loss"}, {}),
        ({"loss": "auto.py:loss"}, {}),
        ({"metric": "mine.py:metric"}, {}),
        ({"training_step": "mine.py:step"}, {}),
        ({"augmentation": "crop_and_flip"}, {}),
        ({"grid": {"lr": [0.1], "device": ["cuda"]}}, {}),
        ({}, {"device": "cuda"}),
    ],
    ids=str,
)
def test_what_names_do_not_say_is_left_to_loading(change, before):
    assert resolve_by_name(_experiment(change), BEFORE.model_copy(update=before)) is None
