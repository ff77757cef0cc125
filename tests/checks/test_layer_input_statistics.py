"""What is noted of the inputs of batch norms, and what becomes of the layers meanwhile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit.nn
from bnkit.checks import layer_input_statistics
from bnkit.checks.measure_on_data import DataMeasurements
from bnkit.errors import ModelError
from bnkit.kernels.channel_moments import plane_moments
from bnkit.mergeable_moments import Moments
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.recognise_batch_norm import batch_norm_sites


class Twice(nn.Module):
    """Calls its batch norm twice, once by keyword, and may raise behind it."""

    def __init__(self, layer=nn.BatchNorm2d, raises=False):
        super().__init__()
        self.norm, self.raises = layer(4), raises

    def forward(self, x):
        y = self.norm(input=self.norm(x) * 2 + 1)
        if self.raises:
            raise ArithmeticError("enough")
        return y


def _images(count=2, size=6):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, size, size, generator=draw) * 3 + 5 for _ in range(count)]


def _measured(model, batches):
    return DataMeasurements(model, batch_norm_sites(model), Batches(batches)).input_statistics


@pytest.fixture(params=[0, 1 << 40], ids=["by compiled loops", "by PyTorch"])
def moments_by(request, monkeypatch):
    monkeypatch.setattr(layer_input_statistics, "_LONG", request.param)


@pytest.mark.usefixtures("moments_by")
@pytest.mark.parametrize("layer", [nn.BatchNorm2d, bnkit.nn.BatchNorm2d])
def test_all_calls_of_a_layer_count(layer):
    images = _images()
    collected = _measured(Twice(layer), images)["norm"]
    assert (collected.calls, collected.examples) == ([2, 2], 12)
    for image, moments in zip(images, collected.batches, strict=True):
        first = Moments.of(image)
        normed = torch.batch_norm(image, None, None, None, None, True, 0.0, 1e-5, False)
        both = first.merge(Moments.of(normed * 2 + 1))
        assert moments.count == both.count == 2 * 3 * 36
        assert torch.allclose(moments.mean, both.mean, atol=1e-5)
        assert torch.allclose(moments.variance(), both.variance(), rtol=1e-5)


@pytest.mark.usefixtures("moments_by")
def test_what_a_layer_is_built_with_counts():
    model = nn.Sequential(nn.BatchNorm2d(4, eps=0.5), nn.BatchNorm2d(4, affine=False))
    nn.init.uniform_(model[0].weight, 1, 2), nn.init.uniform_(model[0].bias)
    (image,) = _images(1)
    seen = model.train()[0](image).detach()
    collected = _measured(model, [image])
    assert torch.allclose(collected["1"].population.mean, Moments.of(seen).mean, atol=1e-6)
    assert torch.allclose(collected["1"].population.variance(), Moments.of(seen).variance(), rtol=1e-5)


@pytest.mark.usefixtures("moments_by")
def test_hooks_of_a_user_see_what_they_would_see():
    model, seen = nn.Sequential(nn.BatchNorm2d(4)), []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    (image,) = _images(1)
    _measured(model, [image])
    (inputs, output), *_ = seen
    assert torch.equal(inputs, image)
    assert torch.allclose(output.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)


@pytest.mark.usefixtures("moments_by")
@pytest.mark.parametrize("raises", [False, True])
def test_a_layer_has_its_own_forward_pass_again(raises):
    model = Twice(raises=raises)
    try:
        _measured(model, _images())
    except ModelError:
        assert raises
    assert "forward" not in vars(model.norm) and not model.norm._forward_hooks and not model.norm._forward_pre_hooks
    assert model.norm.momentum == 0.1


def test_moments_hold_on_to_nothing_else(monkeypatch):
    monkeypatch.setattr(layer_input_statistics, "_LONG", 0)
    collected = _measured(Twice(), _images())["norm"]
    for moments in collected.batches:
        assert moments.mean.untyped_storage().nbytes() <= 2 * 8 * 4  # and not the means of all examples


def test_batches_behind_a_long_one_are_measured_by_the_loops_too(monkeypatch):
    measured = []
    monkeypatch.setattr(layer_input_statistics, "_LONG", 3 * 4 * 6 * 6)
    monkeypatch.setattr(layer_input_statistics, "plane_moments", lambda x: measured.append(len(x)) or plane_moments(x))
    short, *others = _images(4, size=3)
    _measured(nn.Sequential(nn.BatchNorm2d(4)), [short, *others[:2]])
    assert measured == []
    _measured(nn.Sequential(nn.BatchNorm2d(4)), [short, *_images(1, size=8), *others])
    assert measured == [3, 3, 3, 3]
