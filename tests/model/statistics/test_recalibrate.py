"""The statistics of the data in place of the moving average: by value, and with everything else left alone."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import bnkit.nn
from bnkit.errors import SettingsError
from bnkit.model.edit.freeze import freeze
from bnkit.model.statistics.recalibrate import recalibrate
from tests.model.statistics.three_layers import (
    _assert_close,
    _by_hand,
    _data,
    _model,
    _statistics,
)


@pytest.mark.parametrize("layer", [bnkit.nn.BatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("sequential", [False, True])
def test_the_statistics_are_those_of_a_loop_by_hand(layer, sequential):
    model, batches = _model(layer), _data().split([7, 12, 5])
    expected = _by_hand(model, batches, sequential=sequential)
    recalibrate(model, batches, sequential=sequential)
    _assert_close(_statistics(model), expected)


def test_one_after_the_other_depends_on_the_data_alone():
    whole, ones, uneven = _model(), _model(), _model()
    for buffer in (*ones.buffers(), *uneven.buffers()):  # nor on what stood in the layers before
        buffer.fill_(3)
    recalibrate(whole, _data(), sequential=True)
    recalibrate(ones, _data(), sequential=True, batch_size=1)
    recalibrate(uneven, _data().flip(0).split([1, 20, 3]), sequential=True)
    _assert_close(_statistics(ones), _statistics(whole))
    _assert_close(_statistics(uneven), _statistics(whole))
    together = _model()
    recalibrate(together, _data().split([1, 20, 3]))
    with pytest.raises(AssertionError):  # in one pass, deep layers do depend on the batches
        _assert_close(_statistics(together), _statistics(whole), rtol=1e-3)


def test_a_second_time_changes_nothing():
    model = _model()
    recalibrate(model, _data(), sequential=True)
    once = _statistics(model)
    again = recalibrate(model, _data(), sequential=True)
    _assert_close(_statistics(model), once, rtol=0, atol=0)
    assert again.output_change == 0
    assert all(drift.largest_shift < 1e-12 for drift in again.layers)


def test_evaluation_on_the_data_is_normalised_through_and_through():
    model = _model()
    recalibrate(model, _data(), sequential=True)
    output = model.eval()(_data()).detach()
    torch.testing.assert_close(output.mean((0, 2, 3)), model[8].bias.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(output.var((0, 2, 3)).sqrt(), model[8].weight.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("layer", [bnkit.nn.BatchNorm1d, nn.BatchNorm1d])
@pytest.mark.parametrize(("mean", "variance"), [(1000, 1e-3), (10000, 1e-4)])
def test_a_large_mean_does_not_cancel(layer, mean, variance):
    noise = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = (noise * variance**0.5 + mean).float()
    model = layer(4)
    recalibrate(model, data, batch_size=37)
    # Both buffers are the float64 values, rounded to float32 once.
    assert torch.equal(model.running_mean, data.double().mean(0).float())
    torch.testing.assert_close(model.running_var, data.double().var(0).float(), rtol=3e-7, atol=0)


def test_ordered_data_and_an_uneven_last_batch_count_by_their_size():
    data = torch.arange(9.0).view(9, 1)
    model = nn.BatchNorm1d(1)
    recalibrate(model, data.split([4, 4, 1]), sequential=True)
    assert model.running_mean.item() == 4
    assert model.running_var.item() == 7.5
    model.reset_running_stats()
    recalibrate(model, data, batch_size=4)  # a last batch of one goes with the one before
    assert (model.running_mean.item(), model.running_var.item()) == (4, 7.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sequential", [False, True])
def test_half_precision(dtype, sequential):
    data = _data().to(dtype)
    model = _model(dtype=dtype)
    recalibrate(model, data.split(12), sequential=sequential)
    features = nn.functional.conv2d(data, model[0].weight, model[0].bias).double().transpose(0, 1).flatten(1)
    assert torch.equal(model[1].running_mean, features.mean(1).to(dtype))
    assert torch.equal(model[1].running_var, features.var(1).to(dtype))
    assert model[1].num_batches_tracked.dtype == torch.int64


def test_examples_are_taken_a_few_at_a_time_without_a_difference(monkeypatch):
    monkeypatch.setattr("bnkit.model.statistics.measure_population_statistics._VALUES_AT_A_TIME", 200)
    model, expected = _model(), _by_hand(_model(), [_data()], sequential=False)
    recalibrate(model, _data())
    _assert_close(_statistics(model), expected)


class _Twice(nn.Module):
    """One layer in two places, one behind the other or side by side."""

    def __init__(self, *, behind):
        super().__init__()
        self.norm, self.other, self.behind = nn.BatchNorm1d(1).double(), nn.BatchNorm1d(1).double(), behind

    def forward(self, x):
        if self.behind:
            return self.other(self.norm(self.norm(x) * 3 + 1))
        return self.other(self.norm(x)) + self.other(self.norm(5 * x))


@pytest.mark.parametrize("sequential", [False, True])
def test_a_layer_side_by_side_with_itself_gets_all_its_calls(sequential):
    model, data = _Twice(behind=False), _data()[:, :1, 0, 0]
    recalibration = recalibrate(model, data, sequential=sequential)
    both = torch.cat([data, 5 * data])
    torch.testing.assert_close(model.norm.running_mean, both.mean(0))
    torch.testing.assert_close(model.norm.running_var, both.var(0))
    assert {drift.count for drift in recalibration.layers} == {48}
    if sequential:  # what follows has seen the layer as it is in the end
        after = (both - both.mean(0)) / (both.var(0) + 1e-5).sqrt()
        torch.testing.assert_close(model.other.running_mean, after.mean(0))
        torch.testing.assert_close(model.other.running_var, after.var(0))


def test_a_layer_behind_itself_depends_on_the_data_alone():
    data = _data()[:, :1, 0, 0]
    models = [_Twice(behind=True) for _ in range(3)]
    models[1].norm.running_mean.fill_(100)
    models[1].other.running_var.fill_(100)
    for model, sizes in zip(models, ([24], [24], [1, 1, 15, 7]), strict=True):
        recalibrate(model, data.split(sizes), sequential=True)
    for other in models[1:]:
        torch.testing.assert_close(other.norm.running_var, models[0].norm.running_var, rtol=1e-12, atol=0)
        torch.testing.assert_close(other.other.running_mean, models[0].other.running_mean, rtol=0, atol=1e-12)
    output = models[0].eval()(data)
    torch.testing.assert_close(output.mean(0), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_layer_behind_itself_whose_first_call_has_one_value():
    layer = nn.BatchNorm1d(1).double()
    recalibrate(nn.Sequential(layer, layer), torch.tensor([[3.0]]).double(), sequential=True)
    # The second call gets 0 from the first and the moments of (3, 0); then 3 and what those make of it.
    second = (3 - 1.5) / (4.5 + 1e-5) ** 0.5
    assert layer.running_mean.item() == pytest.approx((3 + second) / 2)
    assert layer.running_var.item() == pytest.approx((3 - second) ** 2 / 2)


class _Frozen(nn.BatchNorm2d):
    is_frozen = True


class _Refusing(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


def _by_freeze(model):
    freeze(model, include="1")
    return model[1]


def _by_replacing(layer):
    def replace(model):
        frozen = layer(4).double()
        frozen.load_state_dict(model[1].state_dict())
        model[1] = frozen.eval()
        return frozen

    return replace


@pytest.mark.parametrize("hold", [_by_freeze, _by_replacing(_Frozen), _by_replacing(_Refusing)])
@pytest.mark.parametrize("sequential", [False, True])
def test_frozen_layers_stay_and_normalise_by_their_own(hold, sequential):
    model, twin = _model(), _model()
    frozen = hold(model)
    before = copy.deepcopy(frozen.state_dict())
    recalibration = recalibrate(model, _data(), sequential=sequential)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert [(change.site, change.detail) for change in recalibration.kept] == [("1", "frozen")]
    behind = twin[:5].eval()(_data()).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[5].running_mean, behind.mean(1))


def test_a_layer_that_refuses_to_train_keeps_the_mode_of_what_is_inside_it():
    model = nn.Sequential(nn.BatchNorm2d(3), _Refusing(3))
    model[1].inner = nn.Dropout()
    model[1].eval()
    model[1].inner.training = True  # which its .train() would end
    recalibrate(model, _data().float())
    assert model[1].inner.training


def test_layers_in_evaluation_mode_are_recalibrated_and_stay_in_it():
    model = _model()
    model.train()
    model[5].eval()
    assert {drift.layer for drift in recalibrate(model, _data()).layers} == {"1", "5", "8"}
    assert model.training
    assert not model[5].training


def test_include_and_exclude():
    model = _model()
    before = copy.deepcopy(model.state_dict())
    recalibration = recalibrate(model, _data(), exclude=["1", "8"])
    assert [drift.layer for drift in recalibration.layers] == ["5"]
    assert [change.site for change in recalibration.kept] == ["1", "8"]
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    features = _model()[:5].eval()(_data()).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[5].running_mean, features.mean(1))
    with pytest.raises(SettingsError, match="no place matches 'stem'"):
        recalibrate(model, _data(), include="stem")


def test_a_shared_layer_is_found_under_any_of_its_names():
    layer = nn.BatchNorm2d(3)
    model = nn.ModuleDict({"first": nn.Sequential(layer), "second": nn.Sequential(layer)})
    recalibration = recalibrate(model, _data().float(), lambda model, batch: model["first"](batch), include="second.*")
    assert [drift.layer for drift in recalibration.layers] == ["first.0"]


def test_layers_that_keep_nothing_or_never_run_are_named():
    model = _model()
    model.add_module("9", nn.BatchNorm2d(2, track_running_stats=False).double())
    model.add_module("unused", nn.BatchNorm2d(2))
    recalibration = recalibrate(model, _data(), lambda model, batch: model[:10](batch))
    assert [(change.site, change.detail) for change in recalibration.kept] == [
        ("9", "keeps no running statistics"),
        ("unused", "did not run on any batch"),
    ]
    assert torch.equal(model.unused.running_mean, torch.zeros(2))


def test_the_drift_of_every_layer_worst_first():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).repeat(50, 1)
    recalibrate(model, data, sequential=True)
    deviation = data.std(0)
    model[1].running_mean += torch.tensor([3.0, 1.0])
    model[2].running_var *= torch.tensor([0.5, 1e4])
    recalibration = recalibrate(model, data, include=["0", "1"])
    assert [drift.layer for drift in recalibration.layers] == ["1", "0"]
    worst, fine = recalibration.layers
    assert worst.largest_shift == pytest.approx(3 / deviation[0].item(), rel=0.01)
    assert worst.average_shift == pytest.approx(2 / deviation[0].item(), rel=0.01)
    assert worst.count == 100
    assert fine.largest_shift < 1e-6
    assert (fine.smallest_ratio, fine.largest_ratio) == pytest.approx((1, 1))
    last = recalibrate(model, data).layers
    assert last[0].layer == "2"
    assert (last[0].smallest_ratio, last[0].largest_ratio) == pytest.approx((0.5, 1e4), rel=0.02)


def test_it_prints_and_turns_into_json():
    model = _model()
    model[1].running_mean[0] = float("nan")
    recalibration = recalibrate(model, _data(), exclude="8")
    lines = str(recalibration).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert lines[1].startswith("1 ") and "nan" in lines[1]  # as wrong as can be, so first
    assert lines[2].startswith("5 ")
    assert lines[3] == "8 kept: left out by include or exclude"
    assert lines[4] == "2 recalibrated, 1 kept, 1 batch; on the first batch, outputs were not finite before or after"
    assert repr(recalibration) == str(recalibration)
    assert recalibration.summary == lines[4]
    plain = json.loads(json.dumps(recalibration.to_json(), allow_nan=False))
    assert plain["layers"][0]["largest_shift"] is None
    assert plain["layers"][1]["count"] == 24 * 4
    assert plain["kept"][0]["site"] == "8"
    assert plain["output_change"] is None
    assert plain["batches"] == 1


def test_the_change_of_the_output_is_that_of_the_first_batch():
    model = _model()
    first, second = _data().split(12)
    before = model.eval()(first)
    recalibration = recalibrate(model, [first, second])
    after = model.eval()(first)
    assert recalibration.output_change == pytest.approx(((after - before).abs().max() / before.abs().max()).item())
    assert recalibrate(model, _data(), lambda model, batch: [model(batch), None][1]).output_change is None
