"""The engine that measures what batch norms receive: by value against float64, where a mask says what counts, and call by call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
import bnkit.nn
from bnkit.checks.measure_on_data import DataMeasurements
from bnkit.errors import SettingsError
from bnkit.mergeable_moments import Moments
from bnkit.model import population_statistics
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.recognise_batch_norm import batch_norm_sites
from bnkit.model.statistics.measure_population_statistics import StopForward, collect, moments_of


class Masked(nn.Module):
    """Batch norms in a row, each told which positions are padding."""

    def __init__(self, layer=bnkit.nn.BatchNorm1d, by_keyword=True):
        super().__init__()
        self.first, self.linear, self.second = layer(3), nn.Linear(3, 4), layer(4)
        self.by_keyword = by_keyword

    def forward(self, batch):
        x, mask = batch["x"], batch["mask"]
        keywords = {"mask": mask} if self.by_keyword else {}
        arguments = () if self.by_keyword else (None, mask)
        y = self.linear(self.first(x, *arguments, **keywords).transpose(1, 2)).transpose(1, 2)
        return self.second(y, *arguments, **keywords)


def _padded(count=3):
    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(count):
        lengths = torch.randint(2, 9, (5,), generator=draw)
        mask = torch.arange(8) < lengths[:, None]
        x = torch.randn(5, 3, 8, generator=draw) * 2 + 7
        x[~mask[:, None].expand_as(x)] = 1000  # what would be noticed
        batches.append({"x": x, "mask": mask[:, None]})
    return batches


def _counted(values, mask):
    """The values of each channel that count, (C, K), in float64."""
    return values.detach().double().transpose(0, 1)[:, mask[:, 0]]


def _exact(model, batches):
    """What reaches both layers, by hand: the first normalises by what counts in its batch."""
    first, second = [], []
    for batch in batches:
        counted = _counted(batch["x"], batch["mask"])
        first.append(counted)
        normed = (counted - counted.mean(1, keepdim=True)) / (counted.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        second.append(model.linear.weight.detach().double() @ normed + model.linear.bias.detach().double()[:, None])
    return torch.cat(first, 1), torch.cat(second, 1)


def _run(model, batch):
    return model(batch)


def _recalibrated(model, batches):
    bnkit.recalibrate(model, batches, forward=_run)
    return {
        "first": (model.first.running_mean, model.first.running_var),
        "second": (model.second.running_mean, model.second.running_var),
    }


def _checked(model, batches):
    measured = DataMeasurements(model, batch_norm_sites(model), Batches(batches, _run)).input_statistics
    return {name: (inputs.population.mean, inputs.population.variance()) for name, inputs in measured.items()}


def _population(model, batches):
    return {name: (moments.mean, moments.variance()) for name, moments in population_statistics(model, batches).items()}


@pytest.mark.parametrize("by_keyword", [True, False])
@pytest.mark.parametrize("measure", [_recalibrated, _checked, _population])
def test_only_positions_that_count_are_measured(measure, by_keyword):
    model, batches = Masked(by_keyword=by_keyword), _padded()
    expected = _exact(model, batches)
    measured_inputs = measure(model, batches)
    for name, values in zip(("first", "second"), expected, strict=True):
        mean, variance = measured_inputs[name]
        torch.testing.assert_close(mean.double(), values.mean(1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(variance.double(), values.var(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("measure", [_checked, _population])
def test_moments_are_those_of_float64(measure):
    """Of float32 values with a mean that leaves float32 no digits for their deviations."""
    values = (torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 0.03 + 1000)[..., None]
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    mean, variance = measure(Masked(), [{"x": part, "mask": everything} for part in values.split([150, 7, 243])])[
        "first"
    ]
    torch.testing.assert_close(mean, values.double().mean((0, 2)), rtol=1e-14, atol=0)
    torch.testing.assert_close(variance, values.double().var((0, 2)), rtol=1e-9, atol=0)


def test_a_mask_that_no_layer_takes_is_refused():
    (batch,) = _padded(1)
    with pytest.raises(SettingsError, match=r"got a mask of torch\.float32"):
        bnkit.recalibrate(Masked(), [batch | {"mask": batch["mask"].float()}], forward=_run)


@pytest.mark.parametrize("shape", [(1, 3), (7, 3), (7, 3, 1), (5, 4, 9), (3, 2, 5, 7), (2, 0, 4), (300, 2, 40, 40)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_moments_of_values_however_they_are_laid_out(shape, dtype, is_channels_last):
    values = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 30).to(dtype)
    expected = Moments.of(values)
    moments = moments_of(values.movedim(1, -1).contiguous().movedim(-1, 1) if is_channels_last else values)
    assert moments.count == expected.count
    torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.squared_deviations, expected.squared_deviations, rtol=1e-11, atol=1e-26)


def test_moments_where_nothing_counts():
    moments = moments_of(torch.ones(2, 3, 4), torch.zeros(2, 1, 4, dtype=torch.bool))
    assert moments.count == 0 and moments.mean.shape == (3,)


def test_calls_say_where_they_stand():
    layers = {"a": nn.BatchNorm1d(1).eval(), "b": nn.BatchNorm1d(1).eval()}
    calls, unsupported = [], set()

    def run(batch, number):
        layers["b"](layers["a"](layers["a"](batch)))

    def on_call(call):
        calls.append((call.batch_number, *call.key, call.position))
        if (call.batch_number, call.name) == (2, "b"):
            raise StopForward

    batches = [torch.zeros(2, 1), torch.ones(2, 1)]
    assert collect(layers, batches, run, on_call, unsupported) == 2
    assert calls == [(n, *call) for n in (1, 2) for call in (("a", 0, 0), ("a", 1, 1), ("b", 0, 2))]
    assert not unsupported and not any(layer._forward_pre_hooks for layer in layers.values())
