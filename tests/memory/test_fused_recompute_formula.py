"""Outputs of torch.nn are computed again by one loop, where that gives the same bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bnkit
from bnkit.kernels.cpu import aten_affine as loops
from bnkit.memory import recompute as home
from bnkit.memory import saved_storage
from bnkit.memory.fused_recompute_formula import FusedFormula
from tests.memory.networks import NETWORKS, assert_same, batch, gradients, normalised, step


@pytest.fixture
def followed(monkeypatch):
    """The formulas that tensors were let go for."""
    found = []
    plain = home.SavedStorage.drop
    monkeypatch.setattr(
        home.SavedStorage, "drop", lambda content, formula: found.append(formula) or plain(content, formula)
    )
    return found


@pytest.mark.skipif(not loops.is_possible(), reason="PyTorch's kernels round products here: the loop is not used")
@pytest.mark.parametrize("norm", ["torch", "functional"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False])
def test_one_loop_for_all_outputs(followed, norm, layout, training):
    """Of normalization, sum and ReLU: whatever the blocks of a residual network are made of."""
    model = NETWORKS["resnet"](norm).to(memory_format=layout).train(training)
    step(model, *(part.contiguous(memory_format=layout) if part.dim() == 4 else part for part in batch()), again=True)
    assert len(followed) == 13  # the stem's, and two of each of six blocks
    assert all(isinstance(formula, FusedFormula) and formula.relu for formula in followed)
    assert [len(formula.coefficients) for formula in followed].count(2) == 1  # the shortcut's, normalised itself


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_by_pytorch(followed, dtype):
    model = NETWORKS["vgg"]("torch").to(dtype)
    x, targets = batch(dtype=dtype)
    step(model, x, targets, again=True)
    assert followed
    assert not any(isinstance(formula, FusedFormula) for formula in followed)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_loop_of_other_bits_is_not_taken(followed, network, monkeypatch):
    """As on a processor that PyTorch's kernels were compiled for in another way."""
    plain = loops.affine
    monkeypatch.setattr(home, "_REPRODUCED", {})
    monkeypatch.setattr(loops, "affine", lambda *of: plain(*of) * (1 + 2**-23))
    torch.manual_seed(0)
    model, (x, targets) = NETWORKS[network]("torch"), batch()
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))
    norms = [formula for formula in followed if formula.has_batch_norm]
    assert len(norms) == {"vgg": 4, "resnet": 13}[network]
    assert not any(isinstance(formula, FusedFormula) for formula in norms)


def test_not_where_pytorch_rounds_products(followed, monkeypatch):
    monkeypatch.setattr(loops, "is_possible", lambda: False)
    model, (x, targets) = NETWORKS["resnet"]("torch"), batch()
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))
    assert not any(isinstance(formula, FusedFormula) for formula in followed)


@pytest.mark.parametrize("place", [0, 3])
def test_a_residual_that_lies_otherwise(place):
    """A sum of tensors of which one is contiguous and the other is not."""
    torch.manual_seed(0)
    first, last, norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(4)
    layers, x = nn.ModuleList([first, last, norm]), torch.randn(4, 3, 8, 8)
    results = []
    for again in (False, True):
        norm.reset_running_stats()
        with bnkit.recompute(layers) if again else torch.enable_grad():
            h = first(x)
            terms = [norm(h), h.contiguous(memory_format=torch.channels_last)]
            total = terms[0] + terms[1] if place == 0 else terms[1] + terms[0]
            loss = last(torch.relu(total)).square().sum()
        results.append(gradients(layers, loss))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_parameters_that_change_before_the_backward_pass():
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Sequential(*normalised("torch", 4)), nn.Conv2d(4, 2, 1)])
    x = torch.randn(4, 3, 8, 8)
    results = []
    for again in (False, True):
        with bnkit.recompute(layers) if again else torch.enable_grad():
            loss = layers[2](layers[1](layers[0](x))).square().sum()
        layers[1][0].bias.data.add_(3)
        results.append(torch.autograd.grad(loss, [layers[2].weight]))
        layers[1][0].bias.data.sub_(3)
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_diverged_is_no_error(network, value):
    """Which NaN it is may differ; that it is one does not."""
    torch.manual_seed(0)
    model, (x, targets) = NETWORKS[network]("torch"), batch()
    step(model, x, targets, again=True)  # the forms have been tried
    x[0, 0, 0, 0] = value
    found, expected = (step(model, x, targets, again=again) for again in (True, False))
    assert found["loss"].isnan()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)


def test_which_nan_it_is_does_not_matter():
    """The sum of two is the first of them, and which comes first is up to the compiler."""
    a = torch.tensor([math.nan, 1.0, -0.0])
    b = (a.view(torch.int32) ^ torch.tensor([-(1 << 31), 0, 0], dtype=torch.int32)).view(torch.float32)
    assert saved_storage._same(a, b)
    assert saved_storage._same_bits(a, b)
    assert not saved_storage._same(a, torch.tensor([math.nan, 2.0, -0.0]))
    assert not saved_storage._same(a, torch.tensor([1.0, 1.0, -0.0]))
    assert not saved_storage._same_bits(a, torch.tensor([math.nan, 1.0, 0.0]))
