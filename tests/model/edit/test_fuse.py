"""Batch norm fused with what follows it: where, what it computes then, and back."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.model.edit.convert import convert
from bnkit.model.layers.deferred_fusion import Deferring, _Computation
from bnkit.nn.batch_norm import _BatchNorm

IMAGES = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(2))


class _Step(nn.Module):
    """A convolution, a batch norm, and a network's own code."""

    def __init__(self, then, activation=None):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.other, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.act = activation
        self.then = then

    def forward(self, x):
        return self.conv(self.then(self, x)) * 2


def _in_place(net, x):
    out = net.bn(net.conv(x))
    out += x
    return functional.relu(out, inplace=True)


def _downsampled(net, x):
    out = net.bn(net.conv(x))
    return functional.relu(out + net.norm(net.other(x)))


def _twice(net, x):
    return functional.relu(net.bn(net.conv(functional.relu(net.bn(net.conv(x))))))


def _shared_activation(net, x):
    out = net.act(net.bn(net.conv(x)))
    return net.act(net.norm(net.other(out)) + x)


def _read_twice(net, x):
    out = net.bn(net.conv(x))
    return functional.relu(out) + out.mean()


def _guided(net, x):
    return _Relu.apply(net.bn(net.conv(x)))


class _Relu(torch.autograd.Function):
    """A user's function with its own backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient * (ctx.saved_tensors[0] > 0)


_FUSED = {  # a network, and what is said of its batch norm "bn"
    "a function": (lambda: _Step(lambda net, x: functional.relu(net.bn(net.conv(x)))), "fused with relu"),
    "a method": (lambda: _Step(lambda net, x: net.bn(net.conv(x)).sigmoid()), "fused with sigmoid"),
    "a method in place": (lambda: _Step(lambda net, x: net.bn(net.conv(x)).tanh_()), "fused with tanh"),
    "a module": (lambda: _Step(lambda net, x: net.act(net.bn(net.conv(x))), nn.SiLU(inplace=True)), "fused with silu"),
    "gelu": (lambda: _Step(lambda net, x: net.act(net.bn(net.conv(x))), nn.GELU()), "fused with gelu"),
    "relu6": (lambda: _Step(lambda net, x: net.act(net.bn(net.conv(x))), nn.ReLU6(inplace=True)), "fused with relu6"),
    "leaky": (lambda: _Step(lambda net, x: net.act(net.bn(net.conv(x))), nn.LeakyReLU()), "fused with leaky_relu"),
    "a sum in place": (lambda: _Step(_in_place), "fused with the sum and relu"),
    "a sum from the left": (lambda: _Step(lambda net, x: (x + net.bn(net.conv(x))).relu()), "fused with the sum and relu"),
    "torch.add": (lambda: _Step(lambda net, x: torch.add(x, net.bn(net.conv(x)))), "fused with the sum"),
    "a sum of two": (lambda: _Step(_downsampled), "fused with the sum and relu"),
    "two calls": (lambda: _Step(_twice), "fused with relu"),
    "one activation for two": (lambda: _Step(_shared_activation, nn.ReLU(inplace=True)), "fused with relu"),
}  # fmt: skip
_KEPT = {
    "read twice": (lambda: _Step(_read_twice), "not fused: its output is read by relu, mean"),
    "the output": (lambda: _Outer(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), "not fused: its output is that of the model"),
    "no activation": (lambda: _Step(lambda net, x: net.bn(net.conv(x))), "not fused: conv reads its output"),
    "another slope": (lambda: _Step(lambda net, x: functional.leaky_relu(net.bn(x), 0.2)), "not fused: leaky_relu reads its output"),
    "another form": (lambda: _Step(lambda net, x: net.act(net.bn(x)), nn.GELU(approximate="tanh")), "not fused: act reads its output"),
    "a smaller term": (lambda: _Step(lambda net, x: net.bn(x) + x[:1]), "not fused: what is added to its output is of another shape"),
    "a function of one's own": (lambda: _Step(_guided), "not fused: _Step computes something else with its batch norms fused"),
    "different operations": (lambda: _Step(lambda net, x: functional.relu(net.bn(net.bn(x).tanh()))), "not fused: its calls are followed by"),
}  # fmt: skip


class _Outer(nn.Module):
    def __init__(self, conv, bn):
        super().__init__()
        self.conv, self.bn = conv, bn

    def forward(self, x):
        return self.bn(self.conv(x))


def _build(make):
    torch.manual_seed(3)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def _said_of(changes, site):
    return next(change.detail for change in changes if change.site == site)


def waiting(model):
    """The same model: its batch norms wait on inputs of any size, and nothing is compiled."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.kernel = "aten"
        if isinstance(module, Deferring):
            module.waits_always = True
    return model


def results(model, x):
    """Outputs, gradients and buffers of two steps of training and an evaluation."""
    found = []
    for mode in (True, True, False):
        leaf = x.clone().requires_grad_()
        output = model.train(mode)(leaf)
        gradients = torch.autograd.grad(output.square().sum(), [leaf, *model.parameters()], allow_unused=True)
        found += [output.detach(), *gradients, *(buffer.clone() for buffer in model.buffers())]
    with torch.no_grad():
        return [*found, model(x)]


def _assert_same(model, other, x=IMAGES):
    for one, two in zip(results(model, x), results(other, x), strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", _FUSED)
def test_it_computes_the_same_in_fewer_passes(name, monkeypatch):
    make, said = _FUSED[name]
    model = _build(make)
    converted, changes = convert(model, example_inputs=IMAGES)
    assert said in _said_of(changes, "bn")
    assert changes.error is not None
    assert list(converted.state_dict()) == list(model.state_dict())
    fused = []
    compute = _Computation.fused
    monkeypatch.setattr(_Computation, "fused", lambda self, name: (fused.append(name), compute(self, name))[1])
    _assert_same(model, waiting(converted))
    expected = None if said.endswith("sum") else said.split()[-1]
    assert expected in fused
    assert set(fused) <= {expected, "relu"}


@pytest.mark.parametrize("name", _KEPT)
def test_where_something_else_reads_it_nothing_is_fused(name):
    make, said = _KEPT[name]
    model = _build(make)
    converted, changes = convert(model, example_inputs=IMAGES)
    assert said in _said_of(changes, "bn")
    assert not isinstance(converted.bn, Deferring)
    _assert_same(model, waiting(converted))


def _sequence():
    return nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.Tanh(),
        nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 2),
    )  # fmt: skip


def test_in_a_sequence_the_activation_moves_into_the_layer_and_back():
    model = _build(_sequence)
    converted, changes = convert(model, example_inputs=IMAGES)
    assert [_said_of(changes, site)[-18:] for site in "148"] == [
        "fused with relu (2)", "fused with tanh (5)", "d with sigmoid (9)",
    ] or all(f"({place})" in _said_of(changes, site) for site, place in zip("148", "259", strict=True))  # fmt: skip
    assert [converted[place].activation for place in (1, 4, 8)] == ["relu", "tanh", "sigmoid"]
    assert all(isinstance(converted[place], nn.Identity) for place in (2, 5, 9))
    assert list(converted.state_dict()) == list(model.state_dict())
    _assert_same(model, waiting(converted))
    for kind in ("torch", "group_norm"):
        back, _ = convert(converted, kind, example_inputs=IMAGES)
        assert [type(back[place]) for place in (2, 5, 9)] == [nn.ReLU, nn.Tanh, nn.Sigmoid]
        assert not any(hasattr(module, "_place_behind") for module in back.modules())
        assert [getattr(back[place], "activation", None) for place in (1, 4, 8)] == [None] * 3
    assert type(convert(converted, "torch").model[1]) is nn.BatchNorm2d
    synchronised, _ = convert(converted, "sync", example_inputs=IMAGES)
    assert synchronised[1].activation == "relu"
    assert type(convert(synchronised, "torch").model[2]) is nn.ReLU


def test_hooks_on_the_activation_keep_it():
    model = _build(_sequence)
    seen = []
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(output.min().item()))
    converted, _ = convert(model, example_inputs=IMAGES)
    assert type(converted[2]) is nn.ReLU
    seen.clear()
    waiting(converted)(IMAGES)
    assert seen == [0.0]


def test_without_an_example_nothing_is_fused():
    converted, changes = convert(_build(_sequence))
    assert changes.error is None
    assert [type(module) for module in converted if isinstance(module, nn.ReLU | nn.Identity)] == [nn.ReLU]


@pytest.mark.parametrize("name", ["a sum in place", "a function"])
def test_a_fused_model_is_converted_back(name):
    model = _build(_FUSED[name][0])
    converted, _ = convert(model, example_inputs=IMAGES)
    assert isinstance(converted.bn, Deferring)
    back, changes = convert(converted, "torch", example_inputs=IMAGES)
    assert type(back.bn) is nn.BatchNorm2d
    assert "awaits_sum" not in vars(back.bn)
    assert changes.error == 0
    _assert_same(model, back)


def test_a_second_time_changes_nothing():
    for make in (_FUSED["a sum in place"][0], _sequence):
        once, _ = convert(_build(make), example_inputs=IMAGES)
        twice, changes = convert(once, example_inputs=IMAGES)
        assert changes.made == ()
        assert repr(twice) == repr(once)


def test_a_layer_of_ours_is_fused_later():
    plain, _ = convert(_build(_FUSED["a function"][0]))
    _, changes = convert(plain, example_inputs=IMAGES)
    assert [change.action for change in changes] == ["fused", "kept"]


def test_left_out_is_left_alone():
    converted, changes = convert(_build(_sequence), example_inputs=IMAGES, exclude="4")
    assert _said_of(changes, "4") == "left out by include or exclude"
    assert type(converted[5]) is nn.Tanh


def test_copies_and_pickles_wait_too():
    converted = waiting(convert(_build(_FUSED["a sum in place"][0]), example_inputs=IMAGES).model)
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):  # noqa: S301
        assert isinstance(other.bn, Deferring)
        _assert_same(copy.deepcopy(converted), other)


def test_frozen_layers_are_fused_and_stay_frozen():
    model = _build(_FUSED["a sum in place"][0])
    bnkit.freeze(model)
    converted, changes = convert(model, example_inputs=IMAGES)
    assert "fused with the sum and relu" in _said_of(changes, "bn")
    assert converted.bn.is_frozen
    _assert_same(model, waiting(converted))
    bnkit.unfreeze(converted)
    assert isinstance(converted.bn, Deferring)


@pytest.mark.parametrize("kind", ["group_norm", "torch"])
def test_a_model_that_raises_on_the_example_is_refused(kind):
    with pytest.raises(bnkit.errors.ModelError, match="raised"):
        convert(_build(_sequence), kind, example_inputs=torch.ones(2, 3, 6, 6))
