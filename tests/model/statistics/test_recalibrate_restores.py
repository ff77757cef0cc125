"""recalibrate changes the statistics alone; undo, and what an exception leaves behind."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bnkit.errors import ModelError
from bnkit.model.statistics.recalibrate import recalibrate
from tests.model.statistics.three_layers import (
    _assert_same_state,
    _data,
    _everything,
    _model,
)


def test_undo_gives_the_old_statistics_back():
    model = _model()
    before = copy.deepcopy(model.state_dict())
    buffers = [id(buffer) for buffer in model.buffers()]
    recalibration = recalibrate(model, _data())
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    for _ in range(2):
        recalibration.undo()
        _assert_same_state(model, before)
    assert [id(buffer) for buffer in model.buffers()] == buffers


@pytest.mark.parametrize("sequential", [False, True])
def test_only_the_statistics_change(sequential):
    model = _model()
    model.train()
    model[3].eval()
    before, state = _everything(model), copy.deepcopy(model.state_dict())
    loader = DataLoader(TensorDataset(_data()), batch_size=8, shuffle=True)
    randomness = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    def forward(model, batch):
        random.random(), np.random.rand(), torch.rand(1)
        assert not model(batch[0]).requires_grad
        return model(batch[0])

    recalibrate(model, loader, forward, sequential=sequential)
    assert _everything(model) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) != ("running" in name), name
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert np.array_equal(np.random.get_state()[1], randomness[1])
    assert random.getstate() == randomness[2]
    assert torch.is_grad_enabled()


# In one pass: the output before, two batches, the output after. One after the other: two more passes of two batches.
@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    ("sequential", "when"), [*((False, when) for when in range(4)), *((True, when) for when in range(8))]
)
def test_everything_is_as_before_whatever_is_raised(raised, sequential, when):
    model = _model()
    before, state = _everything(model), copy.deepcopy(model.state_dict())
    calls = []

    def forward(model, batch):
        calls.append(batch)
        if len(calls) == when + 1:
            raise raised("now")
        return model(batch)

    with pytest.raises(KeyboardInterrupt if raised is KeyboardInterrupt else ModelError):
        recalibrate(model, _data().split(12), forward, sequential=sequential)
    assert _everything(model) == before
    _assert_same_state(model, state)


def test_an_interruption_while_writing_takes_back_what_was_written(monkeypatch):
    model = _model()
    state = copy.deepcopy(model.state_dict())
    written = []

    def interrupted(layer, moments):
        if written:
            raise KeyboardInterrupt
        layer.running_mean.copy_(moments.mean)
        written.append(layer)

    monkeypatch.setattr("bnkit.model.statistics.recalibrate.set_running_statistics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, _data())
    assert written
    _assert_same_state(model, state)
