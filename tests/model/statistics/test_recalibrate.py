"""The statistics of the data in place of the moving average: by value, and with everything else left alone."""

from __future__ import annotations

import copy
import json
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import bnkit.nn
from bnkit.errors import BnkitError, DataError, ModelError, SettingsError, TooFewValuesError
from bnkit.model.edit.freeze import freeze
from bnkit.model.statistics.recalibrate import recalibrate
from tests.child_processes import time_limit


def _data(count=24):
    """In an order: each image a little brighter than the one before."""
    noise = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * 3 + torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1) / 4 + 5


def _model(layer=bnkit.nn.BatchNorm2d, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            layer(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 5, 3),
            layer(5, momentum=None),
            nn.ReLU(),
            nn.Conv2d(5, 2, 1),
            layer(2),
        )
        for module in model:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.num_batches_tracked.fill_(7)
    return model.to(dtype)


NORMS, CONVOLUTIONS = (1, 5, 8), (0, 4, 7)


def _by_hand(model, batches, *, sequential):
    """A loop without hooks: what reaches each of the three layers, and its moments over all batches."""
    settled = {}
    for position in NORMS:
        everything = []
        for batch in batches:
            x = batch
            for convolution, norm in zip(CONVOLUTIONS, NORMS, strict=True):
                x = nn.functional.conv2d(x, model[convolution].weight, model[convolution].bias)
                if norm == position:
                    everything.append(x)
                    break
                mean, variance = settled[norm] if sequential else (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
                x = (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + model[norm].eps).sqrt()
                x = nn.functional.relu(x * model[norm].weight.view(1, -1, 1, 1) + model[norm].bias.view(1, -1, 1, 1))
        everything = torch.cat(everything).transpose(0, 1).flatten(1).detach()
        settled[position] = (everything.mean(1), everything.var(1))
    return settled


def _statistics(model):
    return {position: (model[position].running_mean.clone(), model[position].running_var.clone()) for position in NORMS}


def _assert_close(found, expected, rtol=1e-11, atol=1e-12):
    for position in expected:
        for got, wanted in zip(found[position], expected[position], strict=True):
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=atol)


def _everything(model):
    modes = [module.training for module in model.modules()]
    momenta = [getattr(module, "momentum", 0) for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    return modes, momenta, hooks, [parameter.grad for parameter in model.parameters()]


def _assert_same_state(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# The numbers


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
    monkeypatch.setattr("bnkit.model.statistics.collect._VALUES_AT_A_TIME", 200)
    model, expected = _model(), _by_hand(_model(), [_data()], sequential=False)
    recalibrate(model, _data())
    _assert_close(_statistics(model), expected)


# Layers that run several times


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


# What is kept


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


# What batches may be


class _Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x, scale=1.0):
        return {"out": self.norm(input=x * scale)}


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: list(x.split(4)),
        lambda x: iter(x.split(4)),
        lambda x: (part for part in x.split(4)),
        lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=4, shuffle=True),
        lambda x: [(x, torch.zeros(1))],
        lambda x: [[x, "target"]],
        lambda x: [{"x": x, "scale": 1.0}],
        lambda x: [({"x": x}, 0)],
    ],
    ids=["tensor", "list", "iterator", "generator", "loader", "pairs", "lists", "keywords", "keywords in a pair"],
)
def test_batches_of_every_form(make):
    x = torch.arange(12.0).view(12, 1)
    model = _Named()
    recalibration = recalibrate(model, make(x))
    assert model.norm.running_mean.item() == 5.5
    assert model.norm.running_var.item() == 13
    assert recalibration.output_change > 0


def test_a_model_with_several_inputs_takes_a_function():
    x = torch.arange(12.0).view(12, 1)
    model = _Named()
    recalibrate(model, [(x, 2.0)], forward=lambda model, batch: model(batch[0], scale=batch[1]))
    assert model.norm.running_mean.item() == 11


def test_a_model_that_writes_into_its_input_leaves_the_batches_alone():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(1)

        def forward(self, x):
            return self.norm(x.mul_(2))

    model, x = Writing(), torch.arange(4.0).view(4, 1)
    recalibrate(model, x, sequential=True)
    assert x.flatten().tolist() == [0, 1, 2, 3]
    assert model.norm.running_mean.item() == 3


def test_a_loader_that_shuffles_and_augments_is_gone_through_alike_in_every_pass():
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] + torch.rand(1)

    loader = DataLoader(Noisy(_data()), batch_size=5, shuffle=True, drop_last=True)
    seen = []

    def forward(model, batch):
        seen.append(batch.sum().item())
        return model(batch + 0 * torch.rand(1))

    recalibrate(_model(), loader, forward, sequential=True)
    first, passes = seen[0], [seen[1:5], seen[5:9], seen[9:13]]
    assert passes[0] == passes[1] == passes[2]
    assert seen[13:] == [first] == passes[0][:1]


def test_a_model_that_draws_draws_the_same_before_and_after():
    model = nn.BatchNorm1d(1)
    data = torch.tensor([[-1.0], [1.0]])
    recalibrate(model, data)
    noisy = recalibrate(model, data, lambda model, batch: model(batch) + torch.rand(1))
    assert noisy.output_change == 0


def test_memory_does_not_grow_with_the_data():
    batches, alive = [], []

    def generate():
        for _ in range(20):
            batch = _data(2)
            batches.append(weakref.ref(batch))
            yield batch
            alive.append(sum(reference() is not None for reference in batches))

    recalibrate(_model(), generate())
    assert len(alive) == 20
    assert max(alive) <= 3  # the first, which is run again at the end, this one, and the one before


def test_a_pass_ends_with_the_layer_that_is_measured():
    model, ran = _model(), []
    for convolution in CONVOLUTIONS:
        model[convolution].register_forward_pre_hook(lambda module, _: ran.append(module))
    recalibrate(model, _data(), sequential=True)
    # All run before, in the first pass and after; then one pass ends at the second norm, and one at the third.
    assert [ran.count(model[convolution]) for convolution in CONVOLUTIONS] == [5, 5, 4]


@pytest.mark.slow
def test_a_compiled_model_is_measured_too():
    model = _model()
    compiled = torch.compile(model, backend="eager")
    compiled.eval()(_data())
    expected = _by_hand(model, [_data()], sequential=False)
    recalibrate(compiled, _data())
    _assert_close(_statistics(model), expected)


# What is said about it


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
    assert lines[4].startswith("2 recalibrated, 1 kept, 1 batches; the output changed by inf")
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


def test_undo_gives_the_old_statistics_back():
    model = _model()
    before = copy.deepcopy(model.state_dict())
    buffers = [id(buffer) for buffer in model.buffers()]
    recalibration = recalibrate(model, _data())
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    for _ in range(2):
        recalibration.undo()
        _assert_same_state(model, before)
    assert [id(buffer) for buffer in model.buffers()] == buffers


# Nothing else is touched


@pytest.mark.parametrize("sequential", [False, True])
def test_only_the_statistics_change(sequential):
    model = _model()
    model.train()
    model[3].eval()
    before, state = _everything(model), copy.deepcopy(model.state_dict())
    loader = DataLoader(TensorDataset(_data()), batch_size=8, shuffle=True)
    randomness = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()

    def forward(model, batch):
        random.random(), np.random.rand(), torch.rand(1)
        assert not model(batch[0]).requires_grad
        return model(batch[0])

    recalibrate(model, loader, forward, sequential=sequential)
    assert _everything(model) == before
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]) != ("running" in name), name
    assert torch.equal(torch.get_rng_state(), randomness[0])
    assert np.array_equal(np.random.get_state()[1], randomness[1])
    assert random.getstate() == randomness[2]
    assert torch.is_grad_enabled()


# In one pass: the output before, two batches, the output after. One after the other: two more passes of two batches.
@pytest.mark.parametrize("raised", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    ("sequential", "when"), [*((False, when) for when in range(4)), *((True, when) for when in range(8))]
)
def test_everything_is_as_before_whatever_is_raised(raised, sequential, when):
    model = _model()
    before, state = _everything(model), copy.deepcopy(model.state_dict())
    calls = []

    def forward(model, batch):
        calls.append(batch)
        if len(calls) == when + 1:
            raise raised("now")
        return model(batch)

    with pytest.raises(KeyboardInterrupt if raised is KeyboardInterrupt else ModelError):
        recalibrate(model, _data().split(12), forward, sequential=sequential)
    assert _everything(model) == before
    _assert_same_state(model, state)


def test_an_interruption_while_writing_takes_back_what_was_written(monkeypatch):
    model = _model()
    state = copy.deepcopy(model.state_dict())
    written = []

    def interrupted(layer, moments):
        if written:
            raise KeyboardInterrupt
        layer.running_mean.copy_(moments.mean)
        written.append(layer)

    monkeypatch.setattr("bnkit.model.statistics.recalibrate.set_running_statistics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, _data())
    assert written
    _assert_same_state(model, state)


def _with_nan():
    data = _data()
    data[20, 1, 2, 3] = float("nan")
    return data.split(12)


def _broken():
    model = _model()
    with torch.no_grad():
        model[4].weight[1, 2] = float("inf")
    return model


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    ("model", "batches", "error", "message"),
    [
        (_model, list, DataError, "batches is empty; expected at least one batch"),
        (_model, lambda: torch.zeros(0, 3, 6, 6), DataError, "batches is empty"),
        (_model, lambda: [torch.zeros(0, 3, 6, 6).double()], DataError, "the 1 batches hold no examples"),
        (_model, lambda: 3, SettingsError, "batches is a int; expected a DataLoader, a tensor"),
        (_model, lambda: {"x": _data()}, SettingsError, "batches is a dict; .* a single batch goes into a list"),
        (_model, lambda: TensorDataset(_data()), SettingsError, "gives single examples; .* wrap it in a DataLoader"),
        (_model, lambda: torch.tensor(1.0), SettingsError, "a tensor without dimensions"),
        (_model, lambda: [_data(), ()], DataError, "batch 2 is an empty tuple"),
        (_model, lambda: ["image.png"], DataError, "batch 1 holds a str; expected a tensor"),
        (_model, lambda: _data()[:, :2], ModelError, r"Sequential raised RuntimeError on batch 1 \(\(24, 2, 6, 6\)"),
        (_model, _with_nan, DataError, "batch 2 holds NaN or inf, which reached batch norm '1'"),
        (
            _broken,
            lambda: [_data()],
            ModelError,
            "NaN or inf reached batch norm '5' in batch 1, which itself is finite",
        ),
        (lambda: nn.Sequential(nn.Flatten()), _data, ModelError, "Sequential has no batch norm"),
        (
            lambda: nn.BatchNorm2d(3, track_running_stats=False),
            _data,
            ModelError,
            "no batch norm to recalibrate \\('': keeps no running statistics\\)",
        ),
        (nn.LazyBatchNorm2d, _data, ModelError, "is lazy"),
    ],
)
def test_what_is_refused_and_changes_nothing(sequential, model, batches, error, message):
    model = model()
    before = _everything(model)
    lazy = isinstance(model, nn.LazyBatchNorm2d)
    state = {} if lazy else copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message) as caught:
        recalibrate(model, batches(), sequential=sequential)
    assert isinstance(caught.value, BnkitError)
    assert "\n" not in str(caught.value)
    assert _everything(model) == before
    if not lazy:
        _assert_same_state(model, state)


def test_layers_that_are_passed_by_are_named():
    with pytest.raises(ModelError, match="none of the batch norms ran on the 1 batches: '1', '5', '8'"):
        recalibrate(_model(), _data(), lambda model, batch: model[0](batch))


def test_an_iterator_is_refused_for_several_passes_before_it_is_touched():
    batches = iter(_data().split(12))
    with pytest.raises(SettingsError, match="which can be gone through once; expected a list"):
        recalibrate(_model(), batches, sequential=True)
    assert len(list(batches)) == 2


def test_batches_that_run_dry_are_refused():
    class Once:
        def __init__(self):
            self.left = list(_data().split(12))

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    with pytest.raises(DataError, match="2 batches in the first pass and 0 in a later one"):
        recalibrate(_model(), Once(), sequential=True)


def test_one_value_for_each_channel():
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    batches = torch.arange(5.0).view(5, 1).split([4, 1])
    with pytest.raises(TooFewValuesError, match=r"'1' got one value per channel in batch 2, .*sequential=True"):
        recalibrate(model, batches)
    assert torch.equal(model[1].running_mean, torch.zeros(2))
    recalibrate(model, batches, sequential=True)
    torch.testing.assert_close(model[1].running_mean, model[0](torch.tensor([2.0])).detach())
    with pytest.raises(TooFewValuesError, match="in all batches together"):
        recalibrate(model, batches[1], sequential=True)


def test_statistics_that_do_not_fit_into_half_precision_are_refused():
    model = nn.BatchNorm1d(1).half()
    with pytest.raises(ModelError, match=r"do not fit into its buffers: .*variance up to 1\.61e\+09"):
        recalibrate(model, torch.tensor([[40000.0], [-40000.0]] * 100).half())
    assert model.running_var.item() == 1


@pytest.mark.parametrize(("given", "size"), [([_data()], 4), (_data(), 0)])
def test_a_batch_size_that_does_not_apply(given, size):
    with pytest.raises(SettingsError, match=f"batch_size={size}"):
        recalibrate(_model(), given, batch_size=size)


# Several processes

SHARES = {"uneven": (13, 11, 0), "first is empty": (0, 23, 1), "none": (0, 0, 0)}


def synchronised(channels, **arguments):
    return bnkit.nn.BatchNorm2d(channels, sync=True, **arguments)


def _run_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=3,
        timeout=torch.distributed.timedelta(seconds=60),
    )
    found = {}
    for share, sizes in SHARES.items():
        for sequential in (False, True):
            part = _data().split(sizes)[rank] if sum(sizes) else _data()[:0]
            batches = list(part.split(6)) if len(part) else []
            for layer in (nn.BatchNorm2d, nn.SyncBatchNorm, synchronised):
                model = _model(layer)
                try:
                    recalibration = recalibrate(model, batches, sequential=sequential)
                except BnkitError as error:
                    found[share, sequential, layer.__name__] = str(error)
                else:
                    found[share, sequential, layer.__name__] = _statistics(model)
                    assert (recalibration.output_change is None) == (not batches)
    wrapped = DistributedDataParallel(_model(nn.BatchNorm2d))
    share = _data().split(SHARES["uneven"])[rank]
    recalibrate(wrapped, list(share.split(6)) if len(share) else [], sequential=True)
    found["wrapped"] = _statistics(wrapped.module)
    assert wrapped.require_forward_param_sync
    model = _model()
    before = _statistics(model)
    try:
        recalibrate(model, _data()[:, :2] if rank == 1 else _data())
    except ModelError as error:
        found["failed"] = str(error)
    _assert_close(_statistics(model), before, rtol=0, atol=0)
    if rank == 1:  # the others take no part
        recalibrate(model, _data(), across_ranks=False, sequential=True)
        found["alone"] = _statistics(model)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_all_processes_get_the_statistics_of_all_their_data(tmp_path):
    with time_limit(240):
        torch.multiprocessing.spawn(_run_rank, (str(tmp_path),), nprocs=3)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for share, sizes in SHARES.items():
        for sequential in (False, True):
            for layer in ("BatchNorm2d", "SyncBatchNorm", "synchronised"):
                results = [found[share, sequential, layer] for found in ranks]
                if share == "none":
                    assert all(result.startswith("batches is empty") for result in results)
                    continue
                for other in results[1:]:
                    _assert_close(other, results[0], rtol=0, atol=0)
                parts = [batch for part in _data().split(sizes) if len(part) for batch in part.split(6)]
                _assert_close(results[0], _by_hand(_model(), parts, sequential=sequential))
    for found in ranks:
        _assert_close(found["wrapped"], ranks[0]["uneven", True, "BatchNorm2d"])
    assert ranks[1]["failed"].startswith("Sequential raised RuntimeError on batch 1")
    assert ranks[0]["failed"].startswith(
        "rank 1 failed, so that all ranks stopped; there: ModelError: Sequential raised"
    )
    assert ranks[2]["failed"] == ranks[0]["failed"]
    _assert_close(ranks[1]["alone"], _by_hand(_model(), [_data()], sequential=True))
