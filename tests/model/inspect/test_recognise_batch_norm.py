"""Recognising batch norms: those of torch and ours, and what other libraries and users write."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import ModelError, SettingsError
from bnkit.kernels.activation import FUNCTIONS
from bnkit.model.edit.freeze import freeze
from bnkit.model.inspect.probe_batch_norm import behaviour
from bnkit.model.inspect.recognise_batch_norm import (
    BatchNormLike,
    Unrecognized,
    as_module,
    batch_norm_sites,
    identify,
    recognise,
    required_batch_norm_sites,
)
from tests.model import third_party_layers
from tests.model.third_party_layers import trained

# The layer; then what is to be found: eps, momentum, activation, dimensions, is_frozen.
RECOGNISED = {
    "torch 1d": (lambda: nn.BatchNorm1d(3), (1e-5, 0.1, None, 1, False)),
    "torch 2d": (lambda: nn.BatchNorm2d(3, eps=1e-3, momentum=None), (1e-3, None, None, 2, False)),
    "torch 3d": (lambda: nn.BatchNorm3d(3), (1e-5, 0.1, None, 3, False)),
    "sync": (lambda: nn.SyncBatchNorm(3), (1e-5, 0.1, None, None, False)),
    "ours": (lambda: ours.BatchNorm2d(3, activation="silu", momentum=0.3), (1e-5, 0.3, "silu", 2, False)),
    "subclass": (lambda: third_party_layers.Renamed2d(3), (1e-3, 0.03, None, 2, False)),
    "with relu": (lambda: third_party_layers.WithActivation2d(3), (1e-5, 0.1, "relu", 2, False)),
    "with gelu": (lambda: third_party_layers.WithActivation2d(3, nn.GELU), (1e-5, 0.1, "gelu", 2, False)),
    "cumulative": (
        lambda: third_party_layers.WithActivation2d(3, nn.Tanh, momentum=None),
        (1e-5, None, "tanh", 2, False),
    ),
    "with none": (lambda: third_party_layers.WithActivation2d(3, nn.Identity, eps=0.01), (0.01, 0.1, None, 2, False)),
    "sync with silu": (lambda: third_party_layers.SyncWithActivation(3), (1e-5, 0.1, "silu", None, False)),
    "frozen": (lambda: third_party_layers.Frozen2d(3), (1e-5, 0.1, None, 2, True)),
    "frozen, eps": (lambda: third_party_layers.Frozen2d(3, eps=1e-3), (1e-3, 0.1, None, 2, True)),
    "frozen, no eps": (lambda: third_party_layers.Frozen2d(3, has_eps=False), (1e-5, 0.1, None, 2, True)),
    "frozen, eps folded in": (lambda: third_party_layers.Frozen2d(3, eps=0.0), (0.0, 0.1, None, 2, True)),
    "frozen with sigmoid": (lambda: third_party_layers.Frozen2d(3, act=nn.Sigmoid), (1e-5, 0.1, "sigmoid", 2, True)),
    "frozen, one channel": (lambda: third_party_layers.Frozen2d(1), (1e-5, 0.1, None, 2, True)),
    "frozen, parameters": (lambda: third_party_layers.FrozenWithParameters2d(3), (1e-5, 0.1, None, 2, True)),
    "from scratch": (lambda: third_party_layers.FromScratch(3, eps=1e-4, momentum=0.2), (1e-4, 0.2, None, 2, False)),
    "in half precision": (lambda: third_party_layers.WithActivation2d(3).half(), (1e-5, 0.1, "relu", 2, False)),
    "on the meta device": (lambda: third_party_layers.WithActivation2d(3).to("meta"), (1e-5, 0.1, "relu", 2, False)),
}

# Recognised for what they do in evaluation, but more than that; and a part of what stands in the way.
MORE = {
    "virtual batches": (lambda: third_party_layers.Ghost2d(3), "something else in training"),
    "dropout": (
        lambda: third_party_layers.WithActivation2d(3, drop=lambda: nn.Dropout(0.5)),
        "something else in training",
    ),
    "biased variance": (lambda: third_party_layers.BiasedFromScratch(3), "moves its running statistics"),
    "two inputs": (lambda: third_party_layers.OfTwoInputs2d(3), "takes more than the input: other"),
    "another norm": (lambda: third_party_layers.Split2d(3), "holds other besides"),
    "another buffer": (lambda: third_party_layers.Counting2d(3), "holds seen besides"),
    "extra state": (lambda: third_party_layers.WithExtraState2d(3), "holds extra state besides"),
    "pruned": (lambda: _pruned(nn.BatchNorm2d(3)), "weight_orig"),
    "parametrised": (lambda: _parametrised(nn.BatchNorm2d(3)), "holds parametrizations"),
}

REFUSED = {
    "doubled": (lambda: third_party_layers.Doubled2d(3), "computes something else in evaluation mode"),
    "largest of eps": (lambda: third_party_layers.LargestOfEps2d(3), "computes something else in evaluation mode"),
    "absolute gamma": (lambda: third_party_layers.AbsoluteGamma(3), "computes something else in evaluation mode"),
    "two inputs": (lambda: third_party_layers.NeedsTwoInputs2d(3), "raises TypeError on an input of shape"),
    "uncopyable": (
        lambda: third_party_layers.Uncopyable2d(3),
        "cannot be copied to be tried (RuntimeError: one of a kind)",
    ),
    "holds what is no activation": (
        lambda: third_party_layers.WithActivation2d(3, lambda: nn.MaxPool2d(1, 2)),
        "returns something else than a tensor of its input's shape",
    ),
    "raises in its activation": (
        lambda: third_party_layers.WithActivation2d(3, lambda: nn.Linear(7, 7)),
        "raises RuntimeError on an input of shape",
    ),
    "lazy": (nn.LazyBatchNorm2d, "run the model once"),
    "patched": (lambda: _patched(nn.BatchNorm2d(3)), "had its forward replaced"),
    "no channels": (lambda: nn.BatchNorm2d(0), "does not know its number of channels"),
}

OTHERS = {
    "linear": lambda: nn.Linear(3, 3),
    "layer norm": lambda: nn.LayerNorm(3),
    "group norm": lambda: nn.GroupNorm(1, 3),
    "instance norm": lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "what holds one": lambda: nn.Sequential(nn.BatchNorm2d(3)),
}


def _patched(layer):
    layer.forward = lambda x: x
    return layer


def _pruned(layer):
    from torch.nn.utils import prune

    return prune.l1_unstructured(layer, "weight", 1)


def _parametrised(layer):
    from torch.nn.utils import parametrize

    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


@pytest.mark.parametrize("name", RECOGNISED)
def test_it_finds_out_what_a_layer_computes(name):
    make, expected = RECOGNISED[name]
    layer = make()
    recognised = recognise(layer)
    assert isinstance(recognised, BatchNormLike)
    assert (
        recognised.eps,
        recognised.momentum,
        recognised.activation,
        recognised.dimensions,
        recognised.is_frozen,
    ) == expected
    assert recognised.obstacle is None
    assert recognised.channels == layer.running_mean.numel()
    assert recognised.mean is layer.running_mean
    assert recognised.variance is layer.running_var
    assert recognised.weight is layer.weight
    assert recognised.bias is layer.bias
    assert recognised.affine and recognised.tracks_statistics


@pytest.mark.parametrize(
    "name", [name for name in RECOGNISED if name not in ("in half precision", "on the meta device")]
)
def test_the_formula_gives_what_the_layer_gives(name):
    layer = trained(RECOGNISED[name][0]()).eval()
    recognised = recognise(layer)
    dimensions = recognised.dimensions or 2
    x = torch.randn(4, recognised.channels, *(3,) * dimensions, generator=torch.Generator().manual_seed(1))
    shape = (1, -1, *(1,) * dimensions)
    mean, variance, weight, bias = (
        tensor.view(shape) for tensor in (recognised.mean, recognised.variance, recognised.weight, recognised.bias)
    )
    y = as_module(recognised.activation)((x - mean) / torch.sqrt(variance + recognised.eps) * weight + bias)
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("name", MORE)
def test_what_a_layer_does_beyond_a_batch_norm_is_told(name):
    make, obstacle = MORE[name]
    recognised = recognise(make())
    assert recognised is not None
    assert obstacle in recognised.obstacle


@pytest.mark.parametrize("name", REFUSED)
def test_what_computes_something_else_is_not_recognised_and_says_why(name):
    make, reason = REFUSED[name]
    layer = make()
    recognised = identify(layer)
    assert isinstance(recognised, Unrecognized)
    assert reason in recognised.reason
    assert recognised.is_subclass == isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert recognised.is_lazy == (name == "lazy")
    assert recognise(layer) is None


@pytest.mark.parametrize("name", OTHERS)
def test_other_modules_are_nothing(name):
    assert identify(OTHERS[name]()) is None


def test_an_activation_with_weights_is_taken_for_what_it_is():
    layer = third_party_layers.WithActivation2d(
        3, lambda: nn.PReLU(init=0.01)
    )  # which is leaky_relu now, and will not stay so
    recognised = recognise(layer)
    assert recognised.activation is layer.act
    assert recognised.activation_name == "act"


def test_an_activation_that_has_no_name_here_is_the_module():
    layer = third_party_layers.WithActivation2d(3, lambda: nn.GELU(approximate="tanh"))
    assert recognise(layer).activation is layer.act
    assert recognise(third_party_layers.WithActivation2d(3, nn.Hardswish)).activation.__class__ is nn.Hardswish


@pytest.mark.parametrize("arguments", [{"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, third_party_layers.Renamed2d])
def test_what_a_layer_has_not_is_none(kind, arguments):
    layer = kind(3)
    for name in ("weight", "bias") if "affine" in arguments else ("running_mean", "running_var", "num_batches_tracked"):
        setattr(layer, name, None)
    layer.affine, layer.track_running_stats = arguments.get("affine", True), arguments.get("track_running_stats", True)
    recognised = recognise(layer)
    assert recognised.obstacle is None
    assert recognised.channels == 3
    assert (recognised.weight is None, recognised.affine) == (not layer.affine, layer.affine)
    assert (recognised.mean is None, recognised.tracks_statistics) == (
        not layer.track_running_stats,
        layer.track_running_stats,
    )


def test_training_is_not_tried_where_it_would_wait_for_other_processes():
    seen = behaviour(third_party_layers.SyncWithActivation(3), is_synchronised=True)
    assert (seen.activation, seen.is_frozen) == ("silu", False)
    assert "training was not tried" in seen.difference


def test_what_raises_in_training_only():
    class EvaluationOnly(nn.BatchNorm2d):
        def forward(self, x):
            if self.training:
                raise NotImplementedError("for inference")
            return super().forward(x)

    assert "in training raises NotImplementedError" in recognise(EvaluationOnly(3)).obstacle


def test_a_frozen_layer_is_still_recognised():
    for layer in (nn.BatchNorm2d(3), third_party_layers.WithActivation2d(3)):
        freeze(layer)
        recognised = recognise(layer)
        assert recognised.is_frozen
        assert recognised.obstacle is None


def test_looking_changes_nothing():
    calls = []
    layer = trained(third_party_layers.WithActivation2d(3, nn.RReLU)).train()
    layer.register_forward_hook(lambda *arguments: calls.append(arguments))
    layer.act.register_forward_pre_hook(lambda *arguments: calls.append(arguments))
    before, modes = copy.deepcopy(layer.state_dict()), [part.training for part in layer.modules()]
    state = torch.get_rng_state()
    recognised = recognise(layer)
    assert "in training" in recognised.obstacle  # RReLU draws random numbers there
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == []
    assert len(layer._forward_hooks) == 1
    assert [part.training for part in layer.modules()] == modes
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])
    assert layer.weight.grad is None


def test_a_recognised_layer_as_a_module():
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(as_module(None)(x), x)
    for name in FUNCTIONS:
        layer = ours.BatchNorm1d(7, activation=name, affine=False).eval()
        torch.testing.assert_close(as_module(name)(x / (1 + 1e-5) ** 0.5), layer(x[None])[0])
    module = nn.PReLU()
    assert as_module(module) is module


def test_places_are_named_once_with_all_their_names():
    shared = nn.BatchNorm2d(3)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU(), shared), "c": third_party_layers.Doubled2d(3)})
    all_sites = batch_norm_sites(model)
    assert [site.names for site in all_sites] == [("a", "b.1"), ("c",)]
    assert all_sites[0].name == "a"
    assert [site.module for site in all_sites] == [shared, model["c"]]
    assert batch_norm_sites(shared)[0].names == ("",)


def test_a_model_without_batch_norm_is_named():
    with pytest.raises(ModelError, match="Linear holds no batch norm; expected a model with one"):
        required_batch_norm_sites(nn.Linear(2, 2))
    with pytest.raises(SettingsError, match="model is a str; expected an nn.Module"):
        required_batch_norm_sites("resnet")
