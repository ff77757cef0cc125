"""Integers by which a network looks something up stay integers; others become floating, as always."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import bnkit
from bnkit.data.user_data import make_data_set
from bnkit.experiments.integer_inputs import are_indices
from bnkit.experiments.networks import from_factories
from bnkit.experiments.run_settings import Settings

TARGETS = torch.arange(90) % 3
TOKENS = torch.randint(0, 16, (90, 5), generator=torch.Generator().manual_seed(0)) + 16 * TARGETS[:, None]


class _Bag(nn.Module):
    def __init__(self, look_up=None):
        super().__init__()
        self.embedding, self.look_up = nn.Embedding(50, 8), look_up
        self.rest = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        found = self.embedding(x) if self.look_up is None else self.look_up(self.embedding, x)
        return self.rest(found.mean(1))


class _Positions(nn.Module):
    """Looks up where its inputs stand, not what they are."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(5, 5)
        self.rest = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.rest(x.float() + self.positions(torch.arange(5)).mean(0))


def _linear():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _one_hot():
    return _Bag(lambda embedding, x: functional.one_hot(x, 50).float() @ embedding.weight)


_CASES = {
    "an embedding": (_Bag, TOKENS, True),
    "int32": (_Bag, TOKENS.int(), True),
    "bytes": (_Bag, TOKENS.byte(), True),
    "made integers by the network": (lambda: _Bag(lambda embedding, x: embedding(x.long())), TOKENS, True),
    "one-hot": (_one_hot, TOKENS, True),
    "by an index": (lambda: _Bag(lambda embedding, x: embedding.weight[x]), TOKENS, True),
    "a bag": (lambda: _Bag(lambda e, x: functional.embedding_bag(x, e.weight)[:, None]), TOKENS, True),
    "a linear layer": (_linear, TOKENS, False),
    "a linear layer on bytes": (_linear, TOKENS.byte(), False),
    "positions": (_Positions, TOKENS, False),
    "floating inputs": (_linear, TOKENS.float(), False),
}


@pytest.mark.parametrize(("factory", "inputs", "expected"), _CASES.values(), ids=_CASES)
def test_the_network_says_what_integers_are(factory, inputs, expected):
    data = make_data_set(((inputs[:60], TARGETS[:60]), (inputs[60:], TARGETS[60:])), "data")
    for networks in (factory, {"a": factory}):
        for source in from_factories(networks).values():
            assert are_indices(source, data, Settings(), 0) is expected


def _pairs(inputs):
    return (inputs[:60], TARGETS[:60]), (inputs[60:], TARGETS[60:])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, pytest.param(2, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["tensors", "datasets"])
def test_tokens_arrive_as_they_are_and_are_learned(tmp_path, kind, workers):
    data = _pairs(TOKENS) if kind == "tensors" else tuple(TensorDataset(*pair) for pair in _pairs(TOKENS))
    grid = {"lr": [0.5], "batch_size": [8]}
    comparison = bnkit.compare(_Bag, data, grid, seeds=1, epochs=12, out=tmp_path, workers=workers, observe=4)
    run = comparison.plan.runs[1]
    inputs, targets = comparison.data(run).test.head(30)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs, TOKENS[60:])
    right = (comparison.load(run)(inputs).argmax(1) == targets).float().mean().item()
    last = comparison.records[run.run_id].last
    assert last.test_accuracy == pytest.approx(right)
    assert last.test_accuracy > 0.8


@pytest.mark.slow
def test_integers_of_a_linear_network_are_normalised(tmp_path):
    comparison = bnkit.compare(
        _linear, _pairs(TOKENS), {"lr": [0.1], "batch_size": [10]}, seeds=1, epochs=1, out=tmp_path, validation=0.0
    )
    inputs, _ = comparison.data(1).train.head(60)
    raw = TOKENS[:60].float()
    assert torch.allclose(inputs, (raw - raw.mean()) / raw.std(correction=0), atol=1e-5)
