"""What running a model shows of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bnkit.errors import ModelError, SettingsError
from bnkit.model.inspect.example import tensors_in
from bnkit.model.inspect.layer_sites import sites
from tests.model.networks import (
    ALL,
    Attention,
    Functional,
    PlainCnn,
    Residual,
    SqueezeExcite,
    Structured,
    built,
    example,
)


def _seen(kind):
    model = built(kind)
    return {site.name: site for site in sites(model, example(model))}


@pytest.mark.parametrize(
    ("kind", "activations"),
    [
        (Functional, {"conv1": "relu", "conv2": "gelu", "fc1": "clamp", "fc2": ""}),
        (Residual, {"stem": "relu", "body": "relu", "last": "relu", "head": "sigmoid"}),
        (SqueezeExcite, {"conv": "relu", "reduce": "relu", "expand": "", "swish": "sigmoid", "out": ""}),
        (Structured, {"tokens": "tanh", "scores": ""}),
        (PlainCnn, {"conv": "relu", "depthwise": "relu", "grouped": "relu", "up": "relu", "fc": "relu", "out": ""}),
    ],
)
def test_the_layers_in_their_order_and_what_follows_them(kind, activations):
    assert {name: site.activation for name, site in _seen(kind).items()} == activations
    assert list(_seen(kind)) == list(activations)


def test_how_often_what_feeds_and_what_is_fed():
    all_sites = _seen(Residual)
    assert {name: site.calls for name, site in all_sites.items()} == {"stem": 1, "body": 2, "last": 1, "head": 1}
    assert all_sites["stem"].feeds == ("body", "last", "head")  # past the sums, too
    assert all_sites["head"].fed_by == ("last", "body", "stem")
    assert [name for name, site in all_sites.items() if site.crosses] == ["body", "last"]
    assert [name for name, site in all_sites.items() if site.reaches_output] == ["stem", "body", "last", "head"][-1:]


def test_a_gate_is_no_activation_and_a_swish_is():
    all_sites = _seen(SqueezeExcite)
    assert all_sites["expand"].is_gate
    assert not all_sites["swish"].is_gate
    assert all_sites["reduce"].feeds == ("expand",)


def test_norms_and_attention():
    all_sites = _seen(Attention)
    assert all_sites["block.linear1"].activation == "gelu"
    assert [name for name, site in all_sites.items() if site.activation] == ["block.linear1", "wide"]
    assert all_sites["block.norm1"].kind.value == "norm"
    assert not all_sites["block.self_attn"].is_called  # its weight is used by a function


def test_layers_that_never_run_are_named():
    model = built(Structured)
    all_sites = sites(model, example(model))
    assert all_sites.never_ran == ("unused",)
    assert all_sites.called("tokens").output_shape == (2, 3, 7)
    with pytest.raises(KeyError):
        all_sites.called("unused")


def test_a_shared_layer_has_all_its_names():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), shared)
    (site,) = sites(model, torch.ones(2, 4))
    assert (site.names, site.calls, site.activation, site.reaches_output) == (("0.0", "1"), 2, "relu", True)


class _ByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return functional.conv2d(x, self.conv.weight).relu()


def test_a_weight_that_a_function_uses_is_found_by_its_storage():
    (site,) = sites(_ByFunction(), torch.ones(1, 1, 2, 2))
    assert (site.name, site.is_called, site.activation) == ("conv", False, "relu")


class _Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return checkpoint(lambda y: self.conv(y).relu(), x, use_reentrant=False)


@pytest.mark.parametrize(
    "model",
    [
        _Checkpointed(),
        torch.nn.DataParallel(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 1)), nn.ReLU()),
        nn.Sequential(nn.LazyConv2d(2, 1), nn.ReLU()),
    ],
    ids=["checkpoint", "data parallel", "weight norm", "lazy"],
)
def test_what_wraps_layers_hides_none(model):
    (site,) = sites(model, torch.ones(1, 1, 2, 2))
    assert (site.activation, site.is_called) == ("relu", True)


@pytest.mark.parametrize("kind", ALL)
def test_looking_changes_nothing(kind):
    model = built(kind).train()
    next(iter(model.children())).eval()
    called = []
    hook = model.register_forward_hook(lambda *_: called.append(1))
    inputs = example(model)
    content = inputs["sequence"] if isinstance(inputs, dict) else inputs
    kept = content.clone()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(7)
    sites(model, inputs)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(content, kept)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(model._forward_hooks) == [hook.id]
    assert all(not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            torch.ones(2, 3),
            ModelError,
            r"Sequential raised RuntimeError on the example \(\(2, 3\) on cpu\): .*expected an",
        ),
        ([torch.ones(2, 4)], SettingsError, "example_inputs is a list; expected a tensor, a tuple"),
        ({1: torch.ones(2, 4)}, SettingsError, "example_inputs is a dict"),
        ((), ModelError, "no tensors"),
        (torch.ones(2, 4, device="meta"), ModelError, "on meta"),
    ],
)
def test_an_example_that_does_not_fit(inputs, error, message):
    model = nn.Sequential(nn.Linear(4, 4)).train()
    with pytest.raises(error, match=message):
        sites(model, inputs)
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


class _HoldsItself:
    def __init__(self, scores):
        self.scores, self.me = scores, [self]


class _WithCycle(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return _HoldsItself(self.layer(x).relu())


def test_an_output_that_holds_itself():
    all_sites = sites(_WithCycle(), torch.ones(2, 3))
    assert [site.name for site in all_sites] == ["layer"]
    assert [path for path, _ in tensors_in(_HoldsItself(torch.ones(1)))] == ["scores"]
