"""The batches that recalibrate takes: every form, several passes over them, in bounded memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bnkit.model.statistics.recalibrate import recalibrate
from tests.model.statistics.three_layers import (
    CONVOLUTIONS,
    _assert_close,
    _by_hand,
    _data,
    _model,
    _statistics,
)


class _Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x, scale=1.0):
        return {"out": self.norm(input=x * scale)}


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: list(x.split(4)),
        lambda x: iter(x.split(4)),
        lambda x: (part for part in x.split(4)),
        lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=4, shuffle=True),
        lambda x: [(x, torch.zeros(1))],
        lambda x: [[x, "target"]],
        lambda x: [{"x": x, "scale": 1.0}],
        lambda x: [({"x": x}, 0)],
    ],
    ids=["tensor", "list", "iterator", "generator", "loader", "pairs", "lists", "keywords", "keywords in a pair"],
)
def test_batches_of_every_form(make):
    x = torch.arange(12.0).view(12, 1)
    model = _Named()
    recalibration = recalibrate(model, make(x))
    assert model.norm.running_mean.item() == 5.5
    assert model.norm.running_var.item() == 13
    assert recalibration.output_change > 0


def test_a_model_with_several_inputs_takes_a_function():
    x = torch.arange(12.0).view(12, 1)
    model = _Named()
    recalibrate(model, [(x, 2.0)], forward=lambda model, batch: model(batch[0], scale=batch[1]))
    assert model.norm.running_mean.item() == 11


def test_a_model_that_writes_into_its_input_leaves_the_batches_alone():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            return self.norm(x.mul_(2))

    model, x = Writing(), torch.arange(4.0).view(4, 1)
    recalibrate(model, x, sequential=True)
    assert x.flatten().tolist() == [0, 1, 2, 3]
    assert model.norm.running_mean.item() == 3


def test_a_loader_that_shuffles_and_augments_is_gone_through_alike_in_every_pass():
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] + torch.rand(1)

    loader = DataLoader(Noisy(_data()), batch_size=5, shuffle=True, drop_last=True)
    seen = []

    def forward(model, batch):
        seen.append(batch.sum().item())
        return model(batch + 0 * torch.rand(1))

    recalibrate(_model(), loader, forward, sequential=True)
    first, passes = seen[0], [seen[1:5], seen[5:9], seen[9:13]]
    assert passes[0] == passes[1] == passes[2]
    assert seen[13:] == [first] == passes[0][:1]


def test_a_model_that_draws_draws_the_same_before_and_after():
    model = nn.BatchNorm1d(1)
    data = torch.tensor([[-1.0], [1.0]])
    recalibrate(model, data)
    noisy = recalibrate(model, data, lambda model, batch: model(batch) + torch.rand(1))
    assert noisy.output_change == 0


def test_memory_does_not_grow_with_the_data():
    batches, alive = [], []

    def generate():
        for _ in range(20):
            batch = _data(2)
            batches.append(weakref.ref(batch))
            yield batch
            alive.append(sum(reference() is not None for reference in batches))

    recalibrate(_model(), generate())
    assert len(alive) == 20
    assert max(alive) <= 3  # the first, which is run again at the end, this one, and the one before


def test_a_pass_ends_with_the_layer_that_is_measured():
    model, ran = _model(), []
    for convolution in CONVOLUTIONS:
        model[convolution].register_forward_pre_hook(lambda module, _: ran.append(module))
    recalibrate(model, _data(), sequential=True)
    # All run before, in the first pass and after; then one pass ends at the second norm, and one at the third.
    assert [ran.count(model[convolution]) for convolution in CONVOLUTIONS] == [5, 5, 4]


@pytest.mark.slow
def test_a_compiled_model_is_measured_too():
    model = _model()
    compiled = torch.compile(model, backend="eager")
    compiled.eval()(_data())
    expected = _by_hand(model, [_data()], sequential=False)
    recalibrate(compiled, _data())
    _assert_close(_statistics(model), expected)
