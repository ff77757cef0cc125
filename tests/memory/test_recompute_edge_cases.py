"""Recompute in the unusual cases: an address that is used again, nested hooks, several backward passes, what is freed when."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.memory import recompute as home
from bnkit.memory import saved_storage
from tests.memory.networks import NETWORKS, Held, batch, gradients, normalised, resnet, vgg


@pytest.fixture
def run_formula(monkeypatch):
    """The formulas that were followed in backward passes, in turn."""
    found = []
    plain = saved_storage.run_formula
    monkeypatch.setattr(saved_storage, "run_formula", lambda formula: found.append(formula) or plain(formula))
    return found


def test_an_address_that_is_used_again_never_matches():
    """Outputs come and go at the same address while the context is open."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 4, 1), *normalised("torch", 4), nn.Conv2d(4, 2, 1)) for _ in range(30)]
    inputs, losses = [torch.randn(2, 3, 32, 32) for _ in layers], []
    with bnkit.recompute(nn.ModuleList(layers)) as recomputation:
        for model, x in zip(layers, inputs, strict=True):
            y = model[:3](x)
            losses.append(model[3](y).square().sum())
            del y  # and its memory may be the next one's
            other = torch.full((2, 4, 32, 32), 7.0)  # as large
            losses[-1] = losses[-1] + model[3](other).sum()
            del other
    assert recomputation.dropped == 30
    for model, x, loss in zip(layers, inputs, losses, strict=True):
        plain = model(x).square().sum() + model[3](torch.full((2, 4, 32, 32), 7.0)).sum()
        expected = torch.autograd.grad(plain, list(model.parameters()))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_a_dead_storage_matches_nothing():
    """The address of a storage is used again at once, unless a weak reference to it is kept."""
    plain = {torch.zeros(256).untyped_storage()._cdata for _ in range(30)}
    assert len(plain) < 15
    dead = []
    for _ in range(30):
        tensor = torch.zeros(256)
        key = tensor.untyped_storage()._cdata
        assert key not in {content.key for content in dead}
        assert not any(content.matches(tensor, content.key) for content in dead)
        dead.append(saved_storage.SavedStorage(tensor))
        assert dead[-1].matches(tensor, key)
        dead[-1].tensor = None


def test_one_rebuild_for_all_users(run_formula):
    torch.manual_seed(0)
    first, norm = nn.Conv2d(3, 4, 1), nn.Sequential(*normalised("torch", 4))
    users = nn.ModuleList(nn.Conv2d(4, 2, 1) for _ in range(5))
    with bnkit.recompute(norm) as recomputation:
        y = norm(first(torch.randn(2, 3, 8, 8)))
        loss = sum(user(y).sum() for user in users)
        del y
    assert recomputation.dropped == 1
    run_formula.clear()
    loss.backward()
    assert len(run_formula) == 1


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["torch", "numba"])
def test_each_output_is_computed_once_in_a_pass(run_formula, network, norm):
    model, (x, targets) = NETWORKS[network](norm), batch()
    with bnkit.recompute(model) as recomputation:
        loss = functional.cross_entropy(model(x), targets)
    run_formula.clear()
    loss.backward(retain_graph=True)
    integers = 1 if network == "vgg" else 0  # of the first pool; nothing saves what the second returns
    assert len(run_formula) == recomputation.dropped + integers
    loss.backward()
    assert len(run_formula) == 2 * (recomputation.dropped + integers)


def test_what_was_computed_is_freed_behind_its_last_user():
    model, (x, targets) = vgg("torch"), batch()
    with bnkit.recompute(model):
        loss = functional.cross_entropy(model(x), targets)
    with Held() as counted:
        loss.backward(retain_graph=True)
        for parameter in model.parameters():
            parameter.grad = None
    assert counted.bytes() == 0


def test_what_no_user_came_for_is_freed_at_the_end_of_the_pass():
    model, (x, targets) = resnet("torch"), batch()
    with bnkit.recompute(model):
        loss = functional.cross_entropy(model(x), targets)
    with Held() as counted:
        torch.autograd.grad(loss, [model[5].second.weight], retain_graph=True)
    assert counted.bytes() == 0


def test_looking_at_what_is_saved_keeps_nothing(layers, x):
    with bnkit.recompute(layers):
        y = layers[2](layers[1](layers[0](x)))
    plain = layers[1](layers[0](x))
    with Held() as counted:
        assert torch.equal(y.grad_fn._saved_input, plain)
    assert counted.bytes() == 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", ["torch", "auto", "numba"])
def test_several_backward_passes(network, norm):
    torch.manual_seed(0)
    model, (x, targets) = NETWORKS[network](norm), batch()
    model.eval()  # the statistics stay
    expected = torch.autograd.grad(functional.cross_entropy(model(x), targets), list(model.parameters()))
    with bnkit.recompute(model):
        loss = functional.cross_entropy(model(x), targets)
    for keep in (True, True, False):
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=keep)
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("inside", [False, True])
def test_differentiated_twice(layers, x, inside):
    results = []
    for again in (False, True):
        x_copy = x.clone().requires_grad_()
        with bnkit.recompute(layers) if again else torch.enable_grad():
            loss = layers[2](layers[1](layers[0](x_copy))).square().sum()
            if inside:
                (first,) = torch.autograd.grad(loss, x_copy, create_graph=True)
        if not inside:
            (first,) = torch.autograd.grad(loss, x_copy, create_graph=True)
        results.append(
            [first, *torch.autograd.grad(first.square().sum(), [x_copy, *layers.parameters()], allow_unused=True)]
        )
    for found, expected in zip(*results, strict=True):
        assert (found is None and expected is None) or torch.equal(found, expected)


def test_the_backward_pass_inside_the_context():
    torch.manual_seed(0)
    model, (x, targets) = resnet("torch"), batch()
    expected = torch.autograd.grad(functional.cross_entropy(model(x), targets), list(model.parameters()))
    with bnkit.recompute(model):
        gradients = torch.autograd.grad(functional.cross_entropy(model(x), targets), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_tensors_saved_by_inner_hooks_are_left_alone(layers, x):
    """Tensors that other hooks saved are neither replaced nor read."""
    unpacked = []
    expected = gradients(layers, layers[2](layers[1](layers[0](x))).square().sum())
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: unpacked.append(t) or t)
    with bnkit.recompute(layers) as recomputation:
        with hooks:
            y = layers[1](layers[0](x))
        loss = layers[2](y).square().sum()
    assert recomputation.dropped == 0
    assert not unpacked
    assert all(torch.equal(a, b) for a, b in zip(gradients(layers, loss), expected, strict=True))
    assert unpacked


def test_recompute_inside_other_saved_tensor_hooks(layers, x):
    taken = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: taken.append(t) or t.detach(), lambda t: t):
        with bnkit.recompute(layers) as recomputation:
            loss = layers[2](layers[1](layers[0](x))).square().sum()
        assert not taken
    assert recomputation.dropped == 1
    expected = gradients(layers, layers[2](layers[1](layers[0](x))).square().sum())
    assert all(torch.equal(a, b) for a, b in zip(gradients(layers, loss), expected, strict=True))


def test_recompute_inside_recompute(layers, x):
    with bnkit.recompute(layers) as outer, bnkit.recompute(layers) as inner:
        loss = layers[2](layers[1](layers[0](x))).square().sum()
    assert (outer.dropped, inner.dropped) == (0, 1)
    expected = gradients(layers, layers[2](layers[1](layers[0](x))).square().sum())
    assert all(torch.equal(a, b) for a, b in zip(gradients(layers, loss), expected, strict=True))


def _left(model):
    return [
        (
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            sorted(module.__dict__),
        )
        for module in model.modules()
    ]


def test_no_hook_or_mode_is_left_after_an_exception(layers, x):
    before, random = _left(layers), torch.get_rng_state()
    with pytest.raises(KeyError), bnkit.recompute(layers):
        layers[2](layers[1](layers[0](x)))
        raise KeyError
    assert _left(layers) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.slow
def test_all_is_freed_with_the_graph(layers, x):
    """No cycle that waits for the collector."""
    gc.collect()
    gc.disable()
    try:
        with bnkit.recompute(layers) as recomputation:
            loss = layers[2](layers[1](layers[0](x))).square().sum()
        known = weakref.ref(recomputation)
        del recomputation
        loss.backward()
        del loss
        assert known() is None
    finally:
        gc.enable()


def test_a_form_that_does_not_compute_the_same_is_kept(layers, x, monkeypatch):
    monkeypatch.setattr(home, "_REPRODUCED", {})
    monkeypatch.setattr(home, "equals", lambda tensor, storage: False)
    with bnkit.recompute(layers) as recomputation:
        loss = layers[2](layers[1](layers[0](x))).square().sum()
    assert recomputation.dropped == 0
    expected = gradients(layers, layers[2](layers[1](layers[0](x))).square().sum())
    assert all(torch.equal(a, b) for a, b in zip(gradients(layers, loss), expected, strict=True))


def test_without_gradients_nothing_is_saved(layers, x):
    with bnkit.recompute(layers) as recomputation, torch.no_grad():
        layers[2](layers[1](layers[0](x)))
    assert recomputation.dropped == 0


def test_a_model_called_twice(layers, x):
    results = []
    for again in (False, True):
        with bnkit.recompute(layers) if again else torch.enable_grad():
            h = layers[0](x)
            loss = sum(layers[2](layers[1](h * k)).square().sum() for k in (1, 2))
        results.append(gradients(layers, loss))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
