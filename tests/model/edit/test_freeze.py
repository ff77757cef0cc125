"""Freezing batch norms: what holds still, against what, and what comes back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit.freeze import freeze, unfreeze
from tests.model import third_party_layers
from tests.model.third_party_layers import trained

LAYERS = {
    "torch": lambda: nn.BatchNorm2d(4),
    "ours": lambda: ours.BatchNorm2d(4, activation="relu", skip_nonfinite=True),
    "ours cumulative": lambda: ours.BatchNorm2d(4, momentum=None),
    "sync": lambda: nn.SyncBatchNorm(4),
    "ours sync": lambda: ours.BatchNorm2d(4, sync=True),
    "not affine": lambda: nn.BatchNorm2d(4, affine=False),
    "with activation": lambda: third_party_layers.WithActivation2d(4, nn.SiLU),
    "virtual batches": lambda: third_party_layers.Ghost2d(4),
    "from scratch": lambda: third_party_layers.FromScratch(4),
}


def _input():
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2))


def _state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _assert_state(module, expected):
    assert module.state_dict().keys() == expected.keys()
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("name", LAYERS)
def test_it_holds_still_whatever_mode_it_is_told(name):
    layer = trained(LAYERS[name]())
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(layer))
    expected, x = _state(model), model[0](_input()).detach()
    y = copy.deepcopy(layer).eval()(x)
    changes = freeze(model)
    assert [(c.site, c.action, c.detail) for c in changes] == [("1.0", "frozen", "statistics")]
    assert model[1][0] is layer
    assert layer.is_frozen
    for tell in (model.train, layer.train, lambda: model.eval().train(), model.eval):
        tell()
        assert not layer.training
        assert model[0].training == (tell != model.eval)
        assert torch.equal(layer(x), y)
    assert "frozen='statistics'" in repr(model)
    _assert_state(model, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_unfrozen_it_is_what_it_was(name):
    layer = trained(LAYERS[name]())
    model = nn.Sequential(layer).train()
    twin, attributes, kind = copy.deepcopy(model), set(vars(layer)), type(layer)
    freeze(model, affine=True)
    model.eval()
    model.train()
    changes = unfreeze(model)
    assert changes[0].action == "unfrozen"
    assert type(layer) is kind
    assert set(vars(layer)) == attributes
    assert repr(model) == repr(twin)
    assert layer.training
    assert torch.equal(model(_input()), twin(_input()))
    _assert_state(model, _state(twin))
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))


def test_a_second_time_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[0].weight.requires_grad_(False)
    assert len(freeze(model, affine=True).made) == 2
    assert [c.detail for c in freeze(model, affine=True)] == ["is frozen already"] * 2
    assert freeze(model).made == ()
    assert [p.requires_grad for p in model.parameters()] == [False] * 4
    unfreeze(model)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert [c.detail for c in unfreeze(model)] == ["is not frozen"] * 2


def test_gamma_and_beta_can_follow_later():
    model = nn.Sequential(nn.BatchNorm2d(4))
    freeze(model)
    assert model[0].weight.requires_grad
    assert "frozen='statistics'" in repr(model)
    changes = freeze(model, affine=True)
    assert (changes[0].action, changes[0].detail) == ("frozen", "gamma, beta")
    assert not model[0].weight.requires_grad
    assert "frozen='statistics, gamma, beta'" in repr(model)
    assert unfreeze(model)[0].detail == "statistics, gamma, beta"
    assert model[0].weight.requires_grad


def test_tied_parameters_come_back_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[1].weight = model[0].weight
    freeze(model, include="0", affine=True)
    freeze(model, include="1", affine=True)
    unfreeze(model)
    assert model[0].weight.requires_grad


def test_the_mode_is_that_of_the_parent():
    model = nn.ModuleDict({"a": nn.Sequential(nn.BatchNorm2d(4)), "b": nn.Sequential(nn.BatchNorm2d(4))})
    freeze(model)
    model.train()
    model["b"].eval()
    unfreeze(model)
    assert [model["a"][0].training, model["b"][0].training] == [True, False]
    # Of several parents, the first.
    model["b"].append(model["a"][0])
    freeze(model)
    model["b"].eval()
    unfreeze(model)
    assert model["a"][0].training
    # Without a parent: the mode that it was told.
    for mode in (True, False):
        layer = nn.BatchNorm2d(4)
        freeze(layer)
        layer.train(mode)
        unfreeze(layer)
        assert layer.training == mode
    layer = nn.BatchNorm2d(4).eval()
    freeze(layer)
    unfreeze(layer)
    assert not layer.training


def test_include_and_exclude_and_shared_layers():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.BatchNorm2d(4), "d": nn.BatchNorm2d(4)})
    changes = freeze(model, include=["b", "c", "d"], exclude="d")
    assert [(c.site, c.action) for c in changes] == [("a", "frozen"), ("c", "frozen"), ("d", "kept")]
    assert [model.train()[key].training for key in "abcd"] == [False, False, False, True]
    unfreeze(model, exclude="c")
    assert [model[key].training for key in "abcd"] == [True, True, False, True]
    with pytest.raises(SettingsError, match="no place matches 'head'"):
        freeze(model, include="head")


def test_an_optimizer_keeps_its_parameters_and_leaves_the_frozen_ones_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    held = optimizer.param_groups[0]["params"]

    def step():
        optimizer.zero_grad(set_to_none=False)
        model(_input()).square().sum().backward()
        optimizer.step()

    step()
    model(_input()).square().sum().backward()  # gradients that are there when it is frozen
    freeze(model, affine=True)
    optimizer.step()
    before, convolution = _state(model[1]), _state(model[0])
    before["weight"], before["bias"] = model[1].weight.clone(), model[1].bias.clone()
    step()
    _assert_state(model[1], before)
    assert not torch.equal(model[0].weight, convolution["weight"])
    assert all(one is other for one, other in zip(held, model.parameters(), strict=True))
    unfreeze(model)
    step()
    assert not torch.equal(model[1].weight, before["weight"])


def test_the_next_step_of_an_optimizer_does_not_move_gamma():
    model = nn.Sequential(nn.BatchNorm2d(4)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(_input()) * torch.arange(25.0).view(5, 5)).sum().backward()
    freeze(model, affine=True)
    expected = _state(model)
    optimizer.step()
    _assert_state(model, expected)


def test_gamma_learns_if_only_the_statistics_are_frozen():
    model = nn.Sequential(nn.BatchNorm2d(4))
    freeze(model)
    model.train()(_input()).square().sum().backward()
    assert model[0].weight.grad.abs().min() > 0


def test_an_activation_inside_follows_the_mode():
    layer = ours.BatchNorm2d(4, activation=nn.Dropout(0.5))
    freeze(layer)
    assert layer.train().activation.training
    assert not layer.eval().activation.training


def test_what_cannot_or_need_not_be_frozen_is_kept_with_the_reason():
    model = nn.Sequential(
        nn.BatchNorm2d(4, track_running_stats=False),
        third_party_layers.Frozen2d(4),
        third_party_layers.AbsoluteGamma(4),
        nn.BatchNorm2d(4),
    )
    changes = freeze(model)
    assert [c.action for c in changes] == ["kept", "kept", "kept", "frozen"]
    assert "keeps no running statistics" in changes[0].detail
    assert changes[1].detail == "is always frozen, as a Frozen2d"
    assert "AbsoluteGamma, which computes something else" in changes[2].detail
    changes = unfreeze(model)
    assert 'convert(model, to="bnkit") first' in changes[1].detail
    # gamma and beta can be held where the statistics cannot.
    changes = freeze(model, affine=True)
    assert changes[0].detail == "gamma, beta"
    assert not model[0].weight.requires_grad
    assert unfreeze(model)[0].detail == "gamma, beta"
    layer = third_party_layers.FrozenWithParameters2d(4)
    assert freeze(layer, affine=True)[0].detail == "gamma, beta"
    assert not layer.weight.requires_grad
    unfreeze(layer)
    assert layer.weight.requires_grad
    assert type(layer) is third_party_layers.FrozenWithParameters2d


def test_a_subclass_that_is_not_recognised_is_kept_in_evaluation_mode_and_that_is_told():
    layer = third_party_layers.NeedsTwoInputs2d(4)
    changes = freeze(layer)
    assert changes[0].detail.startswith("statistics; kept in evaluation mode only: NeedsTwoInputs2d raises TypeError")
    before = _state(layer)
    layer.train()(_input(), 2.0)
    _assert_state(layer, before)


def test_bad_input_is_named_and_nothing_changes():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.LazyBatchNorm2d())
    with pytest.raises(
        ModelError, match="1: LazyBatchNorm2d, which has not seen an input yet; expected one that has: run"
    ):
        freeze(model)
    assert type(model[0]) is nn.BatchNorm2d
    freeze(model, exclude="1")
    assert model[0].is_frozen
    for verb in (freeze, unfreeze):
        with pytest.raises(ModelError, match="Linear holds no batch norm"):
            verb(nn.Linear(2, 2))
        with pytest.raises(SettingsError, match="model is a list; expected an nn.Module"):
            verb([nn.BatchNorm2d(4)])
