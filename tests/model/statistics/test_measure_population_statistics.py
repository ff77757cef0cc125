"""The statistics of the data: by value, and without a trace on the model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bnkit.nn
from bnkit.errors import TooFewValuesError
from bnkit.model import batch_norms, normalising_by, population_statistics
from bnkit.model.edit.freeze import freeze


def _data():
    return torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 50


def _model(layer=bnkit.nn.BatchNorm2d):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(layer(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 3), nn.ReLU(), layer(4, momentum=None))


@pytest.mark.parametrize("layer", [bnkit.nn.BatchNorm2d, nn.BatchNorm2d])
def test_the_first_layer_has_the_moments_of_all_data_however_they_are_batched(layer):
    data = _data()
    exact = data.double().transpose(0, 1).flatten(1)
    for sizes in ([64], [1, 63], [7, 19, 38]):
        statistics = population_statistics(_model(layer), data.split(sizes))
        assert list(statistics) == ["0", "4"]
        torch.testing.assert_close(statistics["0"].mean, exact.mean(1), rtol=1e-14, atol=0)
        torch.testing.assert_close(statistics["0"].variance(), exact.var(1), rtol=1e-12, atol=0)
        assert statistics["0"].count == 64 * 36


def test_a_deeper_layer_is_measured_behind_batch_statistics_and_without_dropout():
    model, data = _model(), _data()
    statistics = population_statistics(model, [data])
    behind = nn.functional.batch_norm(data, None, None, training=True)
    features = nn.functional.relu(model[2](behind)).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics["4"].mean, features.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics["4"].variance(), features.var(1), rtol=1e-4, atol=1e-6)


def test_it_leaves_the_model_as_it_was():
    model, data = _model(), _data()
    model.train()
    model[4].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    with normalising_by(model, population_statistics(model, [data])):
        assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    assert [module.training for module in model.modules()] == modes
    assert model[4].momentum is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_hooks


def test_it_leaves_the_model_as_it_was_also_after_an_error():
    model = _model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        population_statistics(model, [_data(), torch.zeros(2, 3, 1, 1)])
    assert model.training
    assert model[0].momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_hooks


def test_evaluation_normalises_by_what_was_measured():
    model, data = _model(), _data()
    with normalising_by(model, population_statistics(model, [data])):
        model.eval()
        output = model[0](data)
    torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(output.var((0, 2, 3)), torch.ones(3), rtol=1e-4, atol=0)


def test_a_layer_that_runs_twice_is_measured_over_both():
    layer = nn.BatchNorm1d(1)
    model = nn.Sequential(layer, layer)
    statistics = population_statistics(model, [torch.tensor([[1.0], [3.0]])])
    assert list(statistics) == ["0"]
    assert statistics["0"].count == 4
    torch.testing.assert_close(statistics["0"].mean, torch.tensor([1.0], dtype=torch.float64))


def test_layers_without_running_statistics_are_passed_over():
    assert batch_norms(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.GroupNorm(1, 2))) == {}
    assert population_statistics(nn.Linear(2, 2), [torch.zeros(3, 2)]) == {}


def test_a_frozen_layer_normalises_by_its_own_statistics_and_is_not_measured():
    model, data = _model(nn.BatchNorm2d), _data()
    freeze(model, include="0")
    statistics = population_statistics(model, [data])
    assert list(statistics) == ["4"]
    features = nn.functional.relu(model[2](model[0](data))).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics["4"].mean, features.mean(1), rtol=1e-6, atol=0)


def test_one_value_per_channel_is_refused():
    with pytest.raises(TooFewValuesError, match=r"'0' got one value per channel in batch 2, shape \(1, 2\)"):
        population_statistics(nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(4, 2), torch.randn(1, 2)])
