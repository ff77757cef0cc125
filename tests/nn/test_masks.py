"""Masks: what is False counts in no statistic, and is scaled and shifted like the others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnkit.nn.functional import batch_norm
from tests.cases.kernels import FUSED, INTERPRETED, KERNELS

LAYERS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
# Shapes of the input and of the mask.
SHAPES = {
    "linear": ((9, 3), (9, 1)),
    "sequence": ((4, 3, 7), (4, 1, 7)),
    "images": ((4, 3, 5, 6), (4, 1, 5, 6)),
    "one mask for all examples": ((4, 3, 5, 6), (1, 1, 5, 6)),
    "whole examples": ((6, 3, 5, 6), (6, 1, 1, 1)),
    "fewer dimensions": ((4, 3, 5, 6), (5, 6)),
    "volumes": ((3, 2, 3, 4, 5), (3, 1, 3, 4, 5)),
    "many": ((16, 40, 24, 24), (16, 1, 24, 24)) if not INTERPRETED else ((16, 5, 24, 24), (16, 1, 24, 24)),
}


def _inputs(name, layout=torch.contiguous_format, dtype=torch.float64):
    shape, mask_shape = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype) * 2 + 1
    if len(shape) == 4:
        x = x.contiguous(memory_format=layout)
    mask = torch.rand(mask_shape, generator=generator) < 0.6
    return x, mask, torch.randn(shape, generator=generator, dtype=dtype)


def _expected(x, mask, weight, bias, eps):
    """The output, mean and unbiased variance, channel by channel over the values that are picked out."""
    mask = mask.expand(x.shape[0], 1, *x.shape[2:])
    picked = x.transpose(0, 1)[:, mask[:, 0]]
    variance, mean = torch.var_mean(picked, 1, correction=0)
    shape = (1, -1, *[1] * (x.dim() - 2))
    normalised = (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
    count = picked.shape[1]
    return normalised * weight.view(shape) + bias.view(shape), mean, variance * count / (count - 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_statistics_and_gradients_are_those_of_what_counts(kernel, name, layout):
    x, mask, upstream = _inputs(name, layout)
    channels = x.shape[1]
    results = []
    for compute in ("ours", "expected"):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        weight = torch.linspace(0.5, 2, channels, dtype=torch.float64).requires_grad_()
        bias = torch.linspace(-1, 1, channels, dtype=torch.float64).requires_grad_()
        if compute == "ours":
            mean, variance = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
            output = batch_norm(leaf, mean, variance, weight, bias, True, 1.0, 1e-5, mask=mask, kernel=kernel)
            assert output.stride() == x.stride()
        else:
            output, mean, variance = _expected(leaf, mask, weight, bias, 1e-5)
        gradients = torch.autograd.grad(output, (leaf, weight, bias), upstream)
        results.append([output, mean, variance, *gradients])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_whatever_stands_where_the_mask_is_false_changes_nothing_else(kernel):
    x, mask, _ = _inputs("images", dtype=torch.float32)
    spoiled = torch.where(mask, x, torch.tensor([float("nan"), float("inf"), 1e30])[torch.arange(6) % 3])
    results = []
    for values in (x, spoiled):
        layer = BatchNorm2d(3, kernel=kernel)
        leaf = values.clone().requires_grad_()
        output = layer(leaf, mask=mask)
        counted = mask.expand_as(x)
        gradient, *others = torch.autograd.grad(output[counted].square().sum(), (leaf, layer.weight, layer.bias))
        results.append([output[counted], gradient[counted], *others, layer.running_mean, layer.running_var])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [*KERNELS, "auto"])
def test_a_mask_that_is_true_everywhere_is_none(kernel):
    x, mask, _ = _inputs("images", dtype=torch.float32)
    with_mask, without = BatchNorm2d(3, kernel=kernel), BatchNorm2d(3, kernel=kernel)
    got, expected = with_mask(x, mask=torch.ones_like(mask)), without(x)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(with_mask.state_dict(), without.state_dict())


@pytest.mark.parametrize("kernel", [*KERNELS, "auto"])
def test_a_mask_that_is_false_everywhere_is_an_empty_batch(kernel):
    x, mask, _ = _inputs("images", dtype=torch.float32)
    layer = BatchNorm2d(3, kernel=kernel, activation="relu")
    layer(x)
    before = copy.deepcopy(layer.state_dict())
    leaf = x.clone().requires_grad_()
    output = layer(leaf, mask=torch.zeros_like(mask))
    output.sum().backward()
    for name in ("running_mean", "running_var"):
        assert torch.equal(before[name], layer.state_dict()[name])
    assert layer.num_batches_tracked == 2
    torch.testing.assert_close(output, copy.deepcopy(layer).eval()(x))
    assert leaf.grad.isfinite().all()
    untracked = BatchNorm2d(3, kernel=kernel, track_running_stats=False, affine=False, eps=1e-12)
    torch.testing.assert_close(untracked(x, mask=torch.zeros_like(mask)), x)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_value_that_counts_is_refused(kernel):
    x, mask, _ = _inputs("linear", dtype=torch.float32)
    mask = torch.zeros_like(mask)
    mask[4] = True
    layer = BatchNorm1d(3, kernel=kernel)
    with pytest.raises(TooFewValuesError, match="one value per channel where the mask is True"):
        layer(x, mask=mask)
    assert layer.running_mean.eq(0).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 1, 5, 6), r"a mask of torch.float32; expected torch.bool, .*\(mask != 0\)"),
        (torch.ones(4, 3, 5, 6) > 0, r"a mask of shape \(4, 3, 5, 6\); expected one that broadcasts to \(4, 1, 5, 6\)"),
        (torch.ones(5, 1, 5, 6) > 0, r"a mask of shape \(5, 1, 5, 6\)"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_that_does_not_fit_is_refused(mask, message, training):
    with pytest.raises(SettingsError, match=rf"BatchNorm2d\(num_features=3\) got {message}"):
        BatchNorm2d(3).train(training)(torch.zeros(4, 3, 5, 6), mask=mask)


def test_in_evaluation_a_mask_changes_nothing():
    x, mask, _ = _inputs("images", dtype=torch.float32)
    layer = BatchNorm2d(3).eval()
    assert torch.equal(layer(x, mask=mask), layer(x))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_differentiable_twice(kernel):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(2, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.rand(4, 1, 3, generator=generator) < 0.6

    def compute(x, weight, bias):
        return batch_norm(x, None, None, weight, bias, True, mask=mask, activation="tanh", kernel=kernel)

    assert torch.autograd.gradcheck(compute, (x, weight, bias), fast_mode=INTERPRETED)
    assert torch.autograd.gradgradcheck(compute, (x, weight, bias), fast_mode=INTERPRETED)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["auto", "reference", FUSED])
def test_compiled_whole_and_under_vmap(kernel):
    x, mask, _ = _inputs("images", dtype=torch.float32)
    plain = BatchNorm2d(3, kernel=kernel)
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, mask=mask), plain(x, mask=mask))
    torch.testing.assert_close(compiled.running_var, plain.running_var)

    groups = torch.stack([x, x * 2 + 1])
    got = torch.func.vmap(lambda x: batch_norm(x, None, None, training=True, mask=mask, kernel=kernel))(groups)
    expected = [batch_norm(x, None, None, training=True, mask=mask) for x in groups]
    torch.testing.assert_close(got, torch.stack(expected))


def test_padding_of_sequences_leaves_no_trace():
    """What masks are for: a batch of sequences of several lengths is as one without the padding."""
    generator = torch.Generator().manual_seed(1)
    lengths = (7, 3, 5)
    sequences = [torch.randn(2, length, generator=generator) for length in lengths]
    padded = torch.stack([nn.functional.pad(sequence, (0, 7 - sequence.shape[1])) for sequence in sequences])
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None])[:, None]
    layer, together = BatchNorm1d(2), BatchNorm1d(2)
    output = layer(padded, mask=mask)
    expected = together(torch.cat(sequences, 1)[None])
    torch.testing.assert_close(
        torch.cat([row[:, :length] for row, length in zip(output, lengths, strict=True)], 1), expected[0]
    )
    torch.testing.assert_close(layer.state_dict(), together.state_dict())
