"""Frozen layers under what PyTorch does with modules: pickles, checkpoints, compilers, several processes."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.model.edit.freeze import freeze, unfreeze
from tests.model import third_party_layers
from tests.model.third_party_layers import trained

LAYERS = {
    "torch": lambda: nn.BatchNorm2d(4),
    "ours": lambda: ours.BatchNorm2d(4, activation="relu", skip_nonfinite=True),
    "ours sync": lambda: ours.BatchNorm2d(4, sync=True),
    "with activation": lambda: third_party_layers.WithActivation2d(4, nn.SiLU),
}


def _input():
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2))


def _state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _assert_state(module, expected):
    assert module.state_dict().keys() == expected.keys()
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", ["torch", "ours", "ours sync", "with activation"])
def test_it_survives_copies_and_pickles(name, affine):
    model = nn.Sequential(trained(LAYERS[name]()))
    freeze(model, affine=affine)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301
        torch.load(file, weights_only=False),
    ):
        assert type(twin[0]) is type(model[0])
        assert twin[0].is_frozen
        assert not twin.train()[0].training
        assert repr(twin) == repr(model)
        assert twin[0].weight.requires_grad != affine
        assert torch.equal(twin(_input()), model(_input()))
        unfreeze(twin)
        assert twin[0].training
        assert twin[0].weight.requires_grad
        assert model[0].is_frozen


def test_the_state_dict_is_that_of_a_layer_that_is_not_frozen():
    model, weights = nn.Sequential(nn.BatchNorm2d(4)), nn.Sequential(trained(nn.BatchNorm2d(4))).state_dict()
    freeze(model, affine=True)
    model.load_state_dict(weights, strict=True)
    _assert_state(model, weights)
    assert model[0].is_frozen
    nn.Sequential(ours.BatchNorm2d(4)).load_state_dict(model.state_dict(), strict=True)


def test_update_bn_leaves_it_alone():
    model = nn.Sequential(trained(nn.BatchNorm2d(4)), trained(nn.BatchNorm2d(4)))
    freeze(model, include="0")
    expected = _state(model[0])
    torch.optim.swa_utils.update_bn([_input()], model)
    _assert_state(model[0], expected)
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("name", ["torch", "ours", "ours sync", "with activation"])
def test_it_compiles_in_one_graph(name):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), trained(LAYERS[name]()))
    freeze(model)
    model.train()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(_input()), model(_input()))


def test_a_compiled_model_notices():
    model = nn.Sequential(trained(nn.BatchNorm2d(4))).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(_input())
    freeze(model)
    expected = _state(model)
    torch.testing.assert_close(compiled(_input()), model(_input()))
    _assert_state(model, expected)
    unfreeze(model)
    compiled(_input())
    assert not torch.equal(model[0].running_mean, expected["0.running_mean"])


def test_a_frozen_layer_is_exported():
    model = nn.Sequential(trained(ours.BatchNorm2d(4, activation="relu"))).train()
    freeze(model)
    exported = torch.export.export(model, (_input(),))
    torch.testing.assert_close(exported.module()(_input()), model(_input()))
    assert list(exported.state_dict) == list(model.state_dict())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_frozen_layer_is_scripted():
    model = nn.Sequential(trained(nn.BatchNorm2d(4))).train()
    freeze(model)
    assert torch.equal(torch.jit.script(model)(_input()), model(_input()))


def test_it_trains_under_distributed_data_parallel():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), trained(nn.BatchNorm2d(4)))
    freeze(model, affine=True)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        expected = _state(model[1])
        parallel = nn.parallel.DistributedDataParallel(model).train()
        parallel(_input()).square().sum().backward()
        _assert_state(model[1], expected)
        assert model[0].weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()
