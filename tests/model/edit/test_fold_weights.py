"""Weights and biases that are not plain parameters: folded right, or left alone with the reason; never a bare error."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import bnkit
import bnkit.errors
from bnkit.model.inspect.example import largest_difference
from tests.model.edit.test_fold import _trained

IMAGES = (4, 3, 9, 9)


class _Double(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return 2 * tensor


def _to_buffer(layer, name):
    value = getattr(layer, name).detach()
    delattr(layer, name)
    layer.register_buffer(name, value)


def _to_attribute(layer, name):
    value = getattr(layer, name).detach()
    delattr(layer, name)
    setattr(layer, name, value)


def _to_nothing(layer, name):
    delattr(layer, name)
    layer.register_buffer(name, None)


def _without_bias(layer):
    layer.bias = None
    return layer


def _frozen(layer):
    layer.weight.requires_grad_(False)
    layer.bias.requires_grad_(False)


def _expanded(layer):
    """All weights of a channel are one number in memory."""
    shape = layer.weight.shape
    layer.weight = nn.Parameter(torch.randn(shape[0], *(1 for _ in shape[1:])).expand(shape))


class _Kept(nn.Parameter):
    """A parameter with something hung on it, as some libraries have."""


# What is done to a layer, and why a batch norm cannot go into its output then; empty where it can.
WEIGHTS = {
    "bias, a buffer": (lambda layer: _to_buffer(layer, "bias"), ""),
    "weight, a buffer": (lambda layer: _to_buffer(layer, "weight"), ""),
    "bias, a buffer that is None": (lambda layer: _to_nothing(layer, "bias"), ""),
    "bias, an attribute": (lambda layer: _to_attribute(layer, "bias"), "the bias of {} is computed from others"),
    "weight, an attribute": (lambda layer: _to_attribute(layer, "weight"), "the weight of {} is computed from others"),
    "bias, pruned": (lambda layer: prune.l1_unstructured(layer, "bias", 2), "the bias of {} is computed from others"),
    "weight, pruned": (lambda layer: prune.l1_unstructured(layer, "weight", 2), "the weight of {} is computed"),
    "pruned without bias": (lambda layer: prune.l1_unstructured(_without_bias(layer), "weight", 2), "the weight of {}"),
    "bias, parametrised": (
        lambda layer: parametrize.register_parametrization(layer, "bias", _Double()), "the bias of {} is computed",
    ),
    "weight, parametrised": (
        lambda layer: parametrize.register_parametrization(layer, "weight", _Double()), "the weight of {} is computed",
    ),
    "weight norm": (parametrizations.weight_norm, "the weight of {} is computed from others"),
    "spectral norm": (parametrizations.spectral_norm, "the weight of {} is computed from others"),
    "weight norm without bias": (lambda layer: parametrizations.weight_norm(_without_bias(layer)), "the weight of {}"),
    "weight norm, old": (nn.utils.weight_norm, "the weight of {} is computed from others"),
    "weight norm, old, without bias": (lambda layer: nn.utils.weight_norm(_without_bias(layer)), "the weight of {}"),
    "spectral norm, old": (nn.utils.spectral_norm, "the weight of {} is computed from others"),
    "still": (_frozen, ""),
    "one number in memory": (_expanded, ""),
    "a class of its own": (lambda layer: setattr(layer, "weight", _Kept(layer.weight.data)), ""),
}  # fmt: skip
LAYERS = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3), nn.BatchNorm2d, IMAGES),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d, IMAGES),
    "linear": (lambda: nn.Linear(3, 4), nn.BatchNorm1d, (6, 3)),
}


def _last(kind):
    return nn.Linear(4, 2) if kind == "linear" else nn.Conv2d(4, 2, 3)


def _normed(kind, weights):
    make, norm, shape = LAYERS[kind]
    torch.manual_seed(0)
    model = _trained(nn.Sequential(make(), norm(4), nn.ReLU(), _last(kind))).eval()
    WEIGHTS[weights][0](model[0])
    model(torch.randn(shape))  # what it computes has a history now
    return model, torch.randn(shape), torch.randn(shape)


def _plain(kind, weights):
    make, _, shape = LAYERS[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU(), _last(kind)).eval()
    WEIGHTS[weights][0](model[0])
    model(torch.randn(shape))
    return model, torch.randn(shape), torch.randn(shape)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("verb", ["fold", "remove"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_folded_into_or_left_alone_with_the_reason(weights, kind, verb):
    model, x, other = _normed(kind, weights)
    changed, changes = bnkit.fold(model, x) if verb == "fold" else bnkit.remove(model, x, preserve=True)
    reason = WEIGHTS[weights][1].format("0")
    assert changes[0].detail.startswith(
        f"into a separate scale and shift: {reason}" if reason else "into the output of 0"
    )
    assert largest_difference(model(other), changed.eval()(other)) < 2e-6
    assert changes.error < 2e-6
    changed.train()(x).sum().backward()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("weights", WEIGHTS)
def test_into_the_input_of_such_a_layer(weights):
    torch.manual_seed(0)
    model = _trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))).eval()
    WEIGHTS[weights][0](model[1])
    x, other = torch.randn(IMAGES), torch.randn(IMAGES)
    model(x)
    folded, changes = bnkit.fold(model, x)
    assert changes[0].detail.startswith("into the input of 1") == (not WEIGHTS[weights][1])
    assert largest_difference(model(other), folded(other)) < 2e-6


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_taken_out_the_layer_has_a_bias(weights, kind):
    model, x, other = _normed(kind, weights)
    twin, changes = bnkit.remove(model, x)
    had_bias = getattr(model[0], "bias", None) is not None
    assert changes[0].detail == ("0 has its bias" if had_bias else "0 got a bias")
    assert twin[0].bias.shape == (4,)
    torch.testing.assert_close(twin(other), model[3](model[0](other).relu()))
    twin.train()(x).sum().backward()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_added_behind_such_a_layer_and_taken_out_again(weights, kind, preserve):
    model, x, other = _plain(kind, weights)
    added, changes = bnkit.add(model, x, preserve=preserve)
    bias = getattr(model[0], "bias", None)
    is_taken = isinstance(bias, nn.Parameter) and "bias" in model[0]._parameters
    assert changes[0].detail.endswith(", replacing the bias") == is_taken
    if bias is not None and not is_taken:
        what = "is a buffer" if "bias" in model[0]._buffers else "is computed from others"
        assert changes[0].detail.endswith(f" before relu; its bias stays: it {what}")
    if preserve:
        assert largest_difference(model(other), added.eval()(other)) < 2e-6
    # A batch norm of variance 1 divides by sqrt(1 + eps), and by nothing else.
    assert largest_difference(model(other), added.eval()(other)) < 5e-5
    back = bnkit.remove(added, x).model
    assert largest_difference(model(other), back.eval()(other)) < 2e-6
    names = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    assert sorted((name, p.requires_grad) for name, p in back.named_parameters()) == sorted(names)
    added.train()(x).sum().backward()


def _two(**tied):
    model = _trained(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))).eval()
    for name, share in tied.items():
        setattr(model[3], name, share(getattr(model[0], name)))
    return model


@pytest.mark.parametrize(
    ("tied", "detail"),
    [
        (
            {"bias": lambda bias: bias},
            "into a separate scale and shift: the bias of 0 is shared with another layer",
        ),
        (
            {"weight": lambda weight: weight},
            "into a separate scale and shift: the weight of 0 is shared with another layer",
        ),
        # Parameters of their own in the same memory: those of the other layer stay what they were.
        ({"bias": lambda bias: nn.Parameter(bias.data)}, "into the output of 0"),
        ({"weight": lambda weight: nn.Parameter(weight.data)}, "into the output of 0"),
    ],
    ids=["bias", "weight", "memory of the bias", "memory of the weight"],
)
def test_what_two_layers_share_stays_right_for_the_other(tied, detail):
    torch.manual_seed(0)
    model = _two(**tied)
    before = copy.deepcopy(model[3].state_dict())
    x = torch.randn(6, 4)
    folded, changes = bnkit.fold(model, x)
    assert changes[0].detail.startswith(detail)
    assert all(torch.equal(value, before[name]) for name, value in folded[3].state_dict().items())
    assert largest_difference(model(x), folded(x)) < 2e-6


def test_a_tied_bias_stays_where_it_is():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    model[2].bias = model[0].bias
    added, changes = bnkit.add(model, torch.randn(6, 4))
    assert changes[0].detail == "BatchNorm1d(4) before relu; its bias stays: it is shared with another layer"
    assert added[0].bias is added[2].bias


class _Reading(nn.Module):
    """Uses a parameter of a layer beside running it."""

    def __init__(self, read):
        super().__init__()
        self.layer, self.norm, self.read = nn.Linear(4, 4), nn.BatchNorm1d(4), read

    def forward(self, x):
        return self.norm(self.layer(x)).relu() + self.read(self.layer)


@pytest.mark.parametrize(
    "read",
    [
        lambda layer: layer.bias,
        lambda layer: layer.weight.square().sum(),
        lambda layer: layer.weight.t().contiguous().mean(),
    ],
    ids=["bias", "weight", "through views"],
)
def test_a_layer_whose_weights_something_else_reads_is_left_alone(read):
    torch.manual_seed(0)
    model, x = _trained(_Reading(read)).eval(), torch.randn(6, 4)
    folded, changes = bnkit.fold(model, x)
    assert "a function uses the weight or the bias of layer" in changes[0].detail
    assert largest_difference(model(x), folded(x)) < 2e-6


def _cut(model, keep):
    """As pruning by hand does it: the tensors become shorter, the numbers in the layers stay."""
    layer, norm, _, last = model
    is_transposed = isinstance(layer, nn.ConvTranspose2d)
    layer.weight = nn.Parameter(layer.weight.data[:, keep] if is_transposed else layer.weight.data[keep])
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.data[keep])
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(norm, name, nn.Parameter(getattr(norm, name).data[keep]))
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    last.weight = nn.Parameter(last.weight.data[:, keep])
    return model


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.BatchNorm2d(c, affine=False), nn.SyncBatchNorm])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_sizes_that_were_changed_by_hand(kind, bias, norm):
    torch.manual_seed(0)
    model = _trained(nn.Sequential(kind(3, 8, 3, bias=bias), norm(8), nn.ReLU(), nn.Conv2d(8, 2, 3))).eval()
    model, x = _cut(model, [0, 2, 5]), torch.randn(IMAGES)
    for changed, _ in (bnkit.fold(model, x), bnkit.convert(model, "bnkit"), bnkit.convert(model, "torch")):
        assert largest_difference(model(x), changed(x)) < 2e-6
    twin = bnkit.remove(model, x).model
    assert largest_difference(model[3](model[0](x).relu()), twin(x)) < 2e-6
    for to in ("group_norm", "instance_norm"):
        bnkit.convert(model, to).model(x)
    assert bnkit.convert(model).model[1].num_features == 3
    assert len(bnkit.freeze(model).made) == 1
    bnkit.unfreeze(model)
    recalibration = bnkit.recalibrate(model, x)
    inputs = model[0](x).detach()
    assert [(drift.layer, drift.count) for drift in recalibration.layers] == [("1", inputs[:, 0].numel())]
    torch.testing.assert_close(model[1].running_mean, inputs.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, inputs.transpose(0, 1).flatten(1).var(1))


NORMS = {
    "gamma, a buffer": lambda norm: _to_buffer(norm, "weight"),
    "beta, a buffer": lambda norm: _to_buffer(norm, "bias"),
    "beta, an attribute": lambda norm: _to_attribute(norm, "bias"),
    "gamma, pruned": lambda norm: prune.l1_unstructured(norm, "weight", 2),
    "gamma, parametrised": lambda norm: parametrize.register_parametrization(norm, "weight", _Double()),
    "no beta": lambda norm: norm.register_parameter("bias", None),
    "no counter": lambda norm: setattr(norm, "num_batches_tracked", None),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norms_whose_tensors_are_not_plain(name):
    torch.manual_seed(0)
    model = _trained(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())).eval()
    NORMS[name](model[1])
    x = torch.randn(IMAGES)
    model(x)
    assert largest_difference(model(x), bnkit.fold(model, x).model(x)) < 2e-6
    assert largest_difference(model(x), bnkit.remove(model, x, preserve=True).model(x)) < 2e-6
    torch.testing.assert_close(bnkit.remove(model, x).model(x), model[0](x).relu())
    if name in ("beta, an attribute", "gamma, pruned", "gamma, parametrised"):
        with pytest.raises(bnkit.errors.ModelError, match=r"1: .*BatchNorm2d, which (keeps its bias|holds)"):
            bnkit.convert(model)
    else:
        torch.testing.assert_close(bnkit.convert(model).model(x), model(x))
    bnkit.recalibrate(model, x)
    bnkit.freeze(model, affine=True)
    bnkit.unfreeze(model)
