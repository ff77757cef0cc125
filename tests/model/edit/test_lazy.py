"""Layers that have not seen an input yet: converted, and beside others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import ModelError
from bnkit.model.edit.add import add
from bnkit.model.edit.convert import convert
from bnkit.model.edit.fold import fold
from bnkit.model.edit.freeze import freeze, unfreeze
from bnkit.model.edit.remove import remove
from bnkit.model.statistics.recalibrate import recalibrate
from tests.model.third_party_layers import trained

KINDS = ["bnkit", "torch", "sync"]


def _input(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("to", KINDS)
def test_a_lazy_layer_becomes_the_kind_when_it_sees_an_input(to):
    x = _input((3, 4, 5, 5))
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.LazyBatchNorm2d(eps=1e-3, momentum=None))
    converted, changes = convert(model, to)
    assert len(changes.made) == (to != "torch")
    assert convert(converted, to).changes.made == ()
    back = convert(convert(model, "sync").model, to).model
    for result in (converted, back):
        expected = nn.BatchNorm2d(4, eps=1e-3, momentum=None)
        y = result(x)
        torch.testing.assert_close(y, expected(model[0](x)))
        assert isinstance(result[1], ours.BatchNorm2d) == (to != "torch")
        assert type(result[1]).__name__ == "BatchNorm2d"
        assert getattr(result[1], "sync", False) == (to == "sync")
        assert list(result[1].state_dict()) == list(expected.state_dict())
        torch.testing.assert_close(result[1].running_mean, expected.running_mean)
    assert isinstance(model[1], nn.LazyBatchNorm2d)
    assert model[1].has_uninitialized_params()


def test_a_lazy_layer_that_was_loaded_is_converted_as_any():
    model = nn.LazyBatchNorm2d()
    weights = trained(nn.BatchNorm2d(4))
    model.load_state_dict(weights.state_dict())
    converted, _ = convert(model, "bnkit")
    x = _input((3, 4, 5, 5))
    torch.testing.assert_close(converted.eval()(x), weights.eval()(x))


@pytest.mark.parametrize("to", ["group_norm", "instance_norm"])
def test_a_lazy_layer_that_cannot_wait_is_refused(to):
    with pytest.raises(ModelError, match="LazyBatchNorm2d, which has not seen an input yet; run the model once"):
        convert(nn.Sequential(nn.LazyBatchNorm2d()), to)


def _with_lazy_layers(*, norm=True):
    norms = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def _lazy(*, norm=True):
    norms = [nn.LazyBatchNorm2d()] if norm else []
    return nn.Sequential(
        nn.LazyConv2d(4, 3), *norms, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2)
    )


def _is_lazy(model):
    return any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("make", [_with_lazy_layers, _lazy])
@pytest.mark.parametrize("verb", ["fold", "remove", "remove, preserving"])
def test_with_an_example_the_copy_has_seen_it(verb, make):
    model, x = make(), _input((3, 3, 7, 7))
    run = {"fold": fold, "remove": remove, "remove, preserving": lambda m, x: remove(m, x, preserve=True)}[verb]
    state = torch.get_rng_state()
    changed, changes = run(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(changes.made) == 1
    assert _is_lazy(model) and not _is_lazy(changed)
    assert changed.eval()(x).shape == (3, 2)
    changed.train()(x).sum().backward()


@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("make", [_with_lazy_layers, _lazy])
def test_added_to_a_model_with_lazy_layers(make, preserve):
    model, x = make(norm=False), _input((3, 3, 7, 7))
    added, changes = add(model, x, preserve=preserve)
    assert changes.made[0].detail == "BatchNorm2d(4) before relu, replacing the bias"
    assert _is_lazy(model) and not _is_lazy(added)
    added.train()(x).sum().backward()


@pytest.mark.parametrize("to", [*KINDS, "group_norm", "instance_norm"])
def test_other_layers_may_be_lazy(to):
    model = _with_lazy_layers()
    converted, changes = convert(model, to)
    assert len(changes.made) == (to != "torch")
    assert _is_lazy(converted)
    assert converted(_input((3, 3, 7, 7))).shape == (3, 2)


def test_held_still_beside_lazy_layers():
    model = _with_lazy_layers()
    assert [change.detail for change in freeze(model).made] == ["statistics"]
    model.train()(_input((3, 3, 7, 7)))
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert len(unfreeze(model).made) == 1
    lazy = _lazy()
    assert [change.detail for change in unfreeze(lazy)] == ["is not frozen"]
    with pytest.raises(ModelError, match="1: LazyBatchNorm2d, which has not seen an input yet; .* run the model once"):
        freeze(lazy)


def test_recalibrated_beside_lazy_layers():
    model, x = _with_lazy_layers(), _input((3, 3, 7, 7))
    recalibrate(model, x)
    torch.testing.assert_close(model[1].running_mean, model[0](x).detach().mean((0, 2, 3)))
    with pytest.raises(ModelError, match="batch norm '1' is lazy and has no channels yet; .* call it once"):
        recalibrate(_lazy(), x)
