"""Gradients that stand for several, or have tangents, and gradients of gradients, through every kernel by the side of ``torch.nn``."""

from __future__ import annotations

import pytest
import torch
from torch import func, nn
from torch.autograd import forward_ad
from torch.autograd import functional as by_autograd

import bnkit
from bnkit.kernels.activation import activate
from bnkit.nn import BatchNorm2d
from tests.cases.kernels import FUSED, KERNELS
from tests.cases.selection import pairwise

pytestmark = pytest.mark.slow

NAMES = ("auto", *KERNELS)
# Activation, residual, training.
SETTINGS = ((None, "leaky_relu", "tanh", "gelu"), (False, True), (False, True))
UNITS = torch.eye(5, dtype=torch.float64)


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _pair(kernel, activation, adds, training, shape, **arguments):
    """Our layer and torch.nn's with the same parameters, as functions of x, gamma, beta and the residual; and these."""
    ours = BatchNorm2d(3, activation=activation, kernel=kernel, momentum=0.0, dtype=torch.float64, **arguments)
    theirs = nn.BatchNorm2d(3, momentum=0.0, dtype=torch.float64, **arguments)
    for layer in (ours, theirs):
        layer.train(training)
        if layer.running_var is not None:
            layer.running_mean.fill_(0.5)
            layer.running_var.fill_(2.0)
    operands = (
        _random(*shape),
        _random(3, seed=1) + 2,
        _random(3, seed=2),
        *((_random(*shape, seed=3),) if adds else ()),
    )

    def call(layer, x, weight, bias, residual=None):
        given = () if residual is None or layer is theirs else (residual,)
        y = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, *given))
        return y if layer is ours else activate(y if residual is None else y + residual, activation)

    return [lambda *given, layer=layer: call(layer, *given) for layer in (ours, theirs)], operands


def _assert_alike(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "activation", "adds", "training"), pairwise(NAMES, *SETTINGS))
def test_several_gradients_at_a_time(kernel, activation, adds, training):
    """And the gradients of these."""
    functions, operands = _pair(kernel, activation, adds, training, (4, 3, 2, 5))
    found = []
    for function in functions:
        given = [t.clone().requires_grad_() for t in operands]
        output = function(*given)
        upstream = torch.stack([_random(*output.shape, seed=seed) for seed in (5, 6, 7)]).requires_grad_()
        several = torch.autograd.grad(output, given, upstream, is_grads_batched=True, create_graph=True)
        plain = torch.autograd.grad(output, given, upstream.detach(), is_grads_batched=True, retain_graph=True)
        _assert_alike(plain, several)
        total = sum(t.sin().sum() for t in several)
        again = torch.autograd.grad(total, [*given, upstream], allow_unused=True)
        found.append([*several, *(torch.zeros(()) if t is None else t for t in again)])
    for ours, theirs in zip(*found, strict=True):
        _assert_alike(ours, theirs.reshape(ours.shape) if theirs.numel() == 1 else theirs)


@pytest.mark.parametrize(("kernel", "activation", "adds", "training"), pairwise(NAMES, *SETTINGS))
def test_derivatives_by_autograd(kernel, activation, adds, training):
    """hvp takes a third derivative of a kind: it differentiates the second with respect to its upstream gradient."""
    (ours, theirs), (x, *rest) = _pair(kernel, activation, adds, training, (4, 3, 1, 2))
    first = [lambda x, f=f: f(x, *rest).square().flatten()[:5] for f in (ours, theirs)]
    total = [lambda x, f=f: f(x).sum() for f in first]
    for graph in (False, True):
        _assert_alike(*(by_autograd.jacobian(f, x, vectorize=True, create_graph=graph) for f in first))
    _assert_alike(*(by_autograd.hessian(f, x, vectorize=True) for f in total))
    _assert_alike(*(by_autograd.hvp(f, x, x.flip(0))[1] for f in total))


@pytest.mark.parametrize(
    ("kernel", "activation", "adds", "training"), pairwise([name for name in NAMES if name != "aten"], *SETTINGS)
)
def test_derivatives_by_torch_func(kernel, activation, adds, training):
    """Without buffers that a transform would have to change."""
    arguments = {"track_running_stats": not training}
    (ours, theirs), (x, *rest) = _pair(kernel, activation, adds, training, (4, 3, 1, 2), **arguments)
    first = [lambda x, f=f: f(x, *rest).square().flatten()[:5] for f in (ours, theirs)]
    total = [lambda x, f=f: f(x).sum() for f in first]
    expected = by_autograd.jacobian(first[1], x)
    _assert_alike(func.jacrev(first[0])(x), expected)
    _assert_alike(func.jacfwd(first[0])(x), expected)
    _assert_alike(func.hessian(total[0])(x), by_autograd.hessian(total[1], x))
    several = torch.stack([x, x.flip(0) + 1])
    each = torch.stack([by_autograd.jacobian(total[1], one) for one in several])
    _assert_alike(func.vmap(func.grad(total[0]))(several), each)


@pytest.mark.parametrize(("kernel", "activation", "adds", "training"), pairwise(NAMES, *SETTINGS))
def test_a_graph_made_outside_of_a_transform(kernel, activation, adds, training):
    """The forward pass knows nothing of it: the gradients are wrapped, or have tangents, and the rest is plain."""
    functions, (x, *rest) = _pair(kernel, activation, adds, training, (4, 3, 1, 2))
    found = []
    for function in functions:
        z = x.clone().requires_grad_()
        y = function(z, *rest).flatten()[:5]
        rows = func.vmap(lambda v, y=y, z=z: torch.autograd.grad(y, z, v, retain_graph=True)[0])(UNITS)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(UNITS[0], UNITS[1])
            (gradient,) = torch.autograd.grad(y, z, dual)
            found.append((rows, *forward_ad.unpack_dual(gradient)))
    _assert_alike(*found)


@pytest.mark.parametrize("kernel", NAMES)
def test_several_gradients_through_recompute(kernel):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), BatchNorm2d(4, activation="relu", kernel=kernel), nn.Conv2d(4, 3, 3)
    ).double()
    found = []
    for saves in (False, True):
        x = _random(6, 2, 12, 12).requires_grad_()
        if saves:
            with bnkit.recompute(model) as recomputed:
                y = model(x)
            assert recomputed.dropped == (kernel in ("auto", "aten", FUSED))
        else:
            y = model(x)
        upstream = torch.stack([_random(*y.shape, seed=seed) for seed in (5, 6, 7)])
        found.append(torch.autograd.grad(y, [x, *model.parameters()], upstream, is_grads_batched=True))
    _assert_alike(*found)
