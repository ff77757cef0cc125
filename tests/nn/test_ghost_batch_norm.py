"""Virtual batches: a layer is as if the parts of the batch had come one by one."""

from __future__ import annotations

import copy

import pytest
import torch

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.nn import BatchNorm1d, BatchNorm2d
from bnkit.nn.functional import batch_norm
from tests.cases.kernels import FUSED, KERNELS


def _images(count):
    generator = torch.Generator().manual_seed(count)
    scale = torch.linspace(0.5, 3, count).reshape(-1, 1, 1, 1)  # so that the parts differ
    return torch.randn(count, 3, 4, 5, generator=generator) * scale + scale


def _assert_same(one, other):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


@pytest.mark.parametrize(
    "arguments", [{}, {"momentum": None}, {"skip_nonfinite": True}, {"activation": "relu"}], ids=str
)
@pytest.mark.parametrize(("count", "size"), [(12, 4), (10, 4), (3, 4), (4, 4), (9, 1), (1, 4)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_parts_are_as_batches_of_their_own(kernel, count, size, arguments):
    layer = BatchNorm2d(3, virtual_batch_size=size, kernel=kernel, **arguments)
    alone = BatchNorm2d(3, kernel=kernel, **arguments)
    x, residual = _images(count).requires_grad_(), _images(count) * 0.1
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    leaves = (x, layer.weight, layer.bias)
    output = layer(x, residual)
    gradients = torch.autograd.grad(output, leaves, upstream)

    parts = [alone(*part) for part in zip(x.split(size), residual.split(size), strict=True)]
    expected = torch.autograd.grad(torch.cat(parts), (x, alone.weight, alone.bias), upstream)
    torch.testing.assert_close(output, torch.cat(parts))
    torch.testing.assert_close(gradients, expected)
    _assert_same(layer, alone)
    assert layer.num_batches_tracked == -(-count // size)
    layer.eval(), alone.eval()
    torch.testing.assert_close(layer(x), alone(x))


def test_the_running_statistics_are_those_of_the_paper():
    """Hoffer, Hubara & Soudry (2017), Algorithm 1: (1 - eta)^n * old + the sum of (1 - eta)^i * eta * the part's mean."""
    layer, x = BatchNorm2d(3, virtual_batch_size=4, momentum=0.2), _images(12)
    layer(x)
    means = [part.mean((0, 2, 3)) for part in x.split(4)]
    expected = sum(0.8 ** (len(means) - 1 - i) * 0.2 * mean for i, mean in enumerate(means))
    torch.testing.assert_close(layer.running_mean, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_mask_is_cut_like_the_batch(kernel):
    x = _images(10)
    mask = torch.rand(10, 1, 4, 5, generator=torch.Generator().manual_seed(3)) < 0.7
    layer, alone = BatchNorm2d(3, virtual_batch_size=4, kernel=kernel), BatchNorm2d(3, kernel=kernel)
    expected = torch.cat([alone(*part) for part in zip(x.split(4), [None] * 3, mask.split(4), strict=True)])
    torch.testing.assert_close(layer(x, mask=mask), expected)
    _assert_same(layer, alone)


def test_the_function_takes_it_too():
    x = _images(10)
    mean, variance = torch.zeros(3), torch.ones(3)
    layer = BatchNorm2d(3, virtual_batch_size=4)
    output = batch_norm(x, mean, variance, training=True, virtual_batch_size=4)
    torch.testing.assert_close(output, layer(x))
    torch.testing.assert_close(mean, layer.running_mean)
    assert torch.equal(batch_norm(x, mean, variance, virtual_batch_size=4), batch_norm(x, mean, variance))


def test_a_last_part_of_one_value_is_refused_before_anything_moves():
    layer = BatchNorm1d(3, virtual_batch_size=4)
    with pytest.raises(TooFewValuesError, match="its last part has one value per channel"):
        layer(torch.randn(9, 3))
    assert layer.num_batches_tracked == 0
    assert layer.running_mean.eq(0).all()


def test_an_empty_batch_has_no_parts():
    layer = BatchNorm1d(3, virtual_batch_size=4)
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    assert layer.running_var.eq(1).all()


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(SettingsError, match="virtual_batch_size=.*expected a number of examples, 1 or more"):
        BatchNorm1d(3, virtual_batch_size=size)
    with pytest.raises(SettingsError, match="virtual_batch_size"):
        batch_norm(torch.randn(4, 3), None, None, training=True, virtual_batch_size=size)


def test_not_together_with_sync():
    with pytest.raises(SettingsError, match="sync=True and virtual_batch_size=4; expected one of them"):
        BatchNorm1d(3, sync=True, virtual_batch_size=4)


def test_it_shows_and_is_copied():
    layer = BatchNorm1d(3, virtual_batch_size=4)
    assert "virtual_batch_size=4" in repr(layer)
    assert copy.deepcopy(layer).virtual_batch_size == 4


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["auto", FUSED])
def test_compiled_whole(kernel):
    plain = BatchNorm2d(3, virtual_batch_size=4, kernel=kernel)
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(_images(10)), plain(_images(10)))
    _assert_same(compiled._orig_mod, plain)
