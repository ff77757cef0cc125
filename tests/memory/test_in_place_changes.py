"""Changes in place, seen by autograd or not, between the forward pass and the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import ModelError
from tests.memory.networks import gradients, normalised


def test_a_change_in_place_after_it_was_saved_raises(layers, x):
    with bnkit.recompute(layers):
        y = layers[1](layers[0](x))
        loss = layers[2](y).sum()
    with torch.no_grad():
        y.add_(1)
    del y
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation: .* expected version"):
        loss.backward()


@pytest.mark.parametrize("index", [0, 2])
def test_a_change_in_place_of_what_is_kept_raises(layers, x, index):
    with bnkit.recompute(layers):
        h = layers[0](x)
        loss = layers[2](layers[1](h)).sum()
    with torch.no_grad():
        (h if index == 0 else layers[2].weight).add_(1)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="has been modified by an inplace operation"):
        torch.autograd.grad(loss, [layers[0].weight, layers[2].weight])


@pytest.mark.parametrize("norm", ["torch", "aten"])
def test_a_change_behind_the_back_of_autograd_is_seen_by_the_next_layer(norm, x):
    """As without recompute: the tensor that was changed is the one that is used."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Sequential(*normalised(norm, 4)), nn.Conv2d(4, 2, 1)])
    results = []
    for again in (False, True):
        with bnkit.recompute(layers) if again else torch.enable_grad():
            y = layers[1](layers[0](x))
            y.data.mul_(2)
            loss = layers[2](y).square().sum()
        results.append(gradients(layers, loss))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_change_before_the_output_is_saved_raises(x):
    """The compiled loops do not save their output: the next layer is the first who does, after the change."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 4, 1), *normalised("numba", 4), nn.Conv2d(4, 2, 1)])
    for change in (False, True):
        with bnkit.recompute(layers) as recomputation:
            y = layers[1](layers[0](x))
            if change:
                y.data.mul_(2)
            loss = layers[2](y).square().sum()
        assert recomputation.dropped == 1
        if not change:
            loss.backward()
    with pytest.raises(ModelError, match="got another one"):
        loss.backward()


def test_a_change_of_the_input_behind_the_back_of_autograd_raises(layers, x):
    with bnkit.recompute(layers) as recomputation:
        h = layers[0](x)
        loss = layers[2](layers[1](h)).square().sum()
    assert recomputation.dropped == 1
    h.data.mul_(-1)
    with pytest.raises(ModelError, match=r"a tensor was changed in a way that autograd does not see \(through \.data"):
        loss.backward()


def test_changes_of_parameters_and_buffers_do_not_reach_the_outputs(layers, x):
    """As without recompute, where the next layer's input is what it was."""
    results = []
    for again in (False, True):
        with bnkit.recompute(layers) if again else torch.enable_grad():
            loss = layers[2](layers[1](layers[0](x))).square().sum()
        norm = next(module for module in layers[1].modules() if isinstance(module, nn.BatchNorm2d))
        for tensor in (norm.bias, norm.weight, norm.running_mean, norm.running_var):
            tensor.data.add_(3)
        results.append(gradients(layers, loss))
        for tensor in (norm.bias, norm.weight):
            tensor.data.sub_(3)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
