"""Every way that the Triton kernels take through a tensor, on small ones: run by `test_kernel.py`, interpreted, and by no other file."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from bnkit.kernels.gpu import tiling
from bnkit.nn import BatchNorm2d
from bnkit.nn.functional import batch_norm

# Full tiles and edges, planes and rows, an odd number of columns.
SHAPES = {"planes": (3, 2, 5, 7), "even planes": (4, 2, 8, 8), "rows": (37, 5), "one channel": (6, 1, 4, 4)}
STRATEGIES = {
    "in_registers": {},
    "two_pass": {"_IN_REGISTERS": {"forward": 0, "backward": 0}, "_TILE": {"two_pass": 32, "split_reduction": 32}},
    "split_reduction": {
        "_IN_REGISTERS": {"forward": 0, "backward": 0},
        "_TWO_PASS_BYTES": 0,
        "_TILE": {"two_pass": 32, "split_reduction": 32},
        "_LEAST_TILES": 1,
        "_PROGRAMS": 8,
    },
}


@pytest.fixture(params=STRATEGIES)
def strategy(request, monkeypatch):
    """The way that every plan takes, in float32."""
    for name, value in {**STRATEGIES[request.param], "_EXACT_BELOW": 0}.items():
        monkeypatch.setattr(tiling, name, value)
    plan = tiling._tiling
    plan.cache_clear()
    yield request.param
    plan.cache_clear()


def _leaves(shape, dtype, *, last=False, mean=3.0, deviation=1.0):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * deviation + mean).to(dtype)
    residual, upstream = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if last:
        x, residual, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual, upstream))
    weight, bias = torch.rand(shape[1], generator=generator) + 0.5, torch.randn(shape[1], generator=generator)
    return [x, weight, bias, residual], upstream


def _results(leaves, upstream, kernel, activation="silu", **extra):
    x, *others = [t.detach().requires_grad_() for t in leaves]
    output = batch_norm(
        x, None, None, *others[:2], True, eps=1e-5, residual=others[2], activation=activation, kernel=kernel, **extra
    )
    return [output.detach(), *torch.autograd.grad(output, [x, *others], upstream)]


def _check(leaves, upstream, activation="silu", tolerance=2e-6, **extra):
    got = _results(leaves, upstream, "triton", activation, **extra)
    exact = _results([t.double() for t in leaves], upstream.double(), "reference", activation, **extra)
    for what, one, other in zip(("output", "x", "weight", "bias", "residual"), got, exact, strict=True):
        # Where the sums cancel, rounding is that of their terms.
        step = max(tolerance, 2 * torch.finfo(one.dtype).eps)
        assert (one - other).abs().max() <= step * max(1.0, other.abs().max()) * 4, what


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_all_strategies_agree(strategy, shape):
    leaves, upstream = _leaves(shape, torch.float32)
    plan = tiling.tiling_of(leaves[0], "forward", 1)
    assert plan.strategy == strategy
    assert not plan.is_wide
    assert plan.parts > 1 or strategy != "split_reduction"
    _check(leaves, upstream)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_channels_last(strategy, dtype):
    _check(*_leaves((3, 5, 3, 5), dtype, last=True))


def test_a_large_mean_does_not_cancel(strategy):
    leaves, upstream = _leaves((8, 1, 8, 8), torch.float32, mean=1e4, deviation=1e-2)
    _check(leaves, upstream, None, tolerance=4e-6)


@pytest.mark.parametrize("last", [False, True])
def test_masked_statistics_with_each_strategy(strategy, last):
    (x, *others), upstream = _leaves((5, 2, 3, 5), torch.float32, last=last, mean=100.0)
    mask = torch.rand(5, 1, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0] = False  # the first tile has nothing
    x[0, :, 0, 0] = float("nan")  # nor is it a number
    x = torch.where(mask | x.isnan(), x, 0.0)
    got = _results([x, *others], upstream, "triton", None, mask=mask)
    exact = _results([t.double() for t in (x, *others)], upstream.double(), "reference", None, mask=mask)
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-4, equal_nan=True)


def test_64_bit_offsets(strategy, monkeypatch):
    plan = tiling._tiling
    monkeypatch.setattr(tiling, "_tiling", lambda *arguments: dataclasses.replace(plan(*arguments), is_large=True))
    _check(*_leaves((3, 2, 5, 7), torch.float32))
    _check(*_leaves((3, 2, 5, 7), torch.float32, last=True))


def test_the_same_bits_every_time(strategy):
    leaves, upstream = _leaves((3, 2, 5, 7), torch.float32)
    first, second = (_results(leaves, upstream, "triton") for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_given_statistics_and_their_gradients(strategy):
    leaves, upstream = _leaves((3, 2, 5, 7), torch.float32)
    mean, variance = torch.tensor([2.5, 3.5]), torch.tensor([0.5, 2.0])
    results = []
    for kernel, number in (("triton", torch.float32), ("reference", torch.float64)):
        x, weight, bias, residual = (t.to(number).detach().requires_grad_() for t in leaves)
        output = batch_norm(x, mean, variance, weight, bias, activation="gelu", residual=residual, kernel=kernel)
        results.append([output, *torch.autograd.grad(output, (x, weight, bias, residual), upstream.to(number))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-5)


def test_a_training_step_moves_the_buffers(strategy):
    x = _leaves((3, 2, 5, 7), torch.float32)[0][0]
    ours, theirs = BatchNorm2d(2, kernel="triton", momentum=0.3), nn.BatchNorm2d(2, momentum=0.3)
    version = ours.running_mean._version
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours.running_mean._version > version


def test_autocast_keeps_the_inputs_dtype_and_float32_statistics(strategy):
    layer = BatchNorm2d(2, kernel="triton", activation="relu")
    x = _leaves((3, 2, 5, 7), torch.bfloat16)[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    assert (output.dtype, layer.running_mean.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(layer.running_mean, 0.1 * x.float().mean((0, 2, 3)), rtol=1e-5, atol=0)
