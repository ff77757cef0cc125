"""The figures of PyTorch's max pooling, whatever way is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnkit.experiments.networks.max_pool import MaxPool2d


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 4, 6, 8).relu(),
        torch.randn(3, 4, 7, 9),
        torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last),
        torch.randn(2, 3, 6, 6).bfloat16(),
        torch.randn(3, 6, 6),
        torch.randn(1, 1, 2, 2),
        torch.tensor([[[[1.0, float("nan")], [2.0, 0.0]]]]).expand(2, 2, 2, 2).contiguous(),
        torch.randn(2, 2, 6, 12)[..., ::2],
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.dtype}",
)
def test_it_gives_the_figures_of_torch_nn(x):
    ours, theirs = MaxPool2d(2), nn.MaxPool2d(2)
    expected, weights = theirs(x), torch.randn(theirs(x).shape, dtype=x.dtype)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=0, equal_nan=True)
    seen = x.clone().requires_grad_()
    output = ours(seen)
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)
    gradients = [torch.autograd.grad(pool(seen), seen, weights)[0] for pool in (ours, theirs)]
    assert torch.equal(*gradients)


def test_where_operations_are_traced_it_is_a_pooling():
    x, seen = torch.randn(2, 2, 4, 4), []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Names():
        MaxPool2d(2)(x)
    assert any("max_pool2d" in name for name in seen)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 2, "ceil_mode": True},
    ],
)
def test_other_windows_are_those_of_torch_nn(options):
    x = torch.randn(2, 2, 7, 7)
    assert torch.equal(MaxPool2d(**options)(x), nn.MaxPool2d(**options)(x))


@pytest.mark.parametrize("shape", [(2, 3, 0, 4), (2, 3, 4)])
def test_what_torch_refuses_or_takes_it_does_too(shape):
    x = torch.randn(*shape)
    results = []
    for pool in (MaxPool2d(2), nn.MaxPool2d(2)):
        try:
            results.append(tuple(pool(x).shape))
        except (RuntimeError, IndexError) as error:
            results.append(type(error))
    assert results[0] == results[1]


def test_it_can_be_differentiated_twice():
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaxPool2d(2), x)
    assert torch.autograd.gradgradcheck(MaxPool2d(2), x)
