"""Where a run goes on, and its weights: whole, or named as broken, wherever they were cut off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnkit.errors import RecordError
from bnkit.experiments.training.checkpoint import (
    UnreadableCheckpointError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from bnkit.experiments.training.training_loop import Training
from tests.experiments import tiny_experiment
from tests.report.fake_runs import epoch


def _training():
    model = tiny_experiment.with_batch_norm()
    return Training(model, torch.optim.Adam(model.parameters(), lr=0.1), None)


def _trained():
    training = _training()
    training.model(torch.randn(8, 6)).sum().backward()
    training.optimizer.step()
    return training


def test_a_checkpoint_brings_back_weights_optimizer_and_figures(tmp_path):
    trained, again = _trained(), _training()
    save_checkpoint(tmp_path, trained, [epoch(1, 0.5), epoch(2, None)])
    assert load_checkpoint(tmp_path, again) == [epoch(1, 0.5), epoch(2, None)]
    for name, value in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)
    moments = [state["exp_avg"] for state in trained.optimizer.state_dict()["state"].values()]
    restored = [state["exp_avg"] for state in again.optimizer.state_dict()["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, restored, strict=True))


def test_without_a_checkpoint_there_are_no_epochs(tmp_path):
    assert load_checkpoint(tmp_path, _training()) == []


def test_a_checkpoint_cut_off_at_any_byte_is_named(tmp_path):
    save_checkpoint(tmp_path, _trained(), [epoch(1, 0.5)])
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    for end in (*range(0, len(content), 97), *range(len(content) - 40, len(content))):
        path.write_bytes(content[:end])
        with pytest.raises(UnreadableCheckpointError, match=r"checkpoint\.pt cannot be read"):
            load_checkpoint(tmp_path, _training())


def test_weights_cut_off_at_any_byte_are_named(tmp_path):
    save_weights(tmp_path, _trained().model)
    path = tmp_path / "weights.safetensors"
    content = path.read_bytes()
    for end in (*range(0, len(content), 41), len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(RecordError, match=r"weights\.safetensors does not fit the network"):
            load_weights(tmp_path, tiny_experiment.with_batch_norm())


def test_weights_of_another_network_are_refused_and_missing_ones_named(tmp_path):
    with pytest.raises(RecordError, match="does not exist; expected the weights of a finished run"):
        load_weights(tmp_path, nn.Linear(1, 1))
    save_weights(tmp_path, nn.Linear(2, 3))
    with pytest.raises(RecordError, match="does not fit the network"):
        load_weights(tmp_path, tiny_experiment.with_batch_norm())
