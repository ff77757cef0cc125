"""What recalibrate refuses, before anything is changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from bnkit.errors import BnkitError, DataError, ModelError, SettingsError, TooFewValuesError
from bnkit.model.statistics.recalibrate import recalibrate
from tests.model.statistics.three_layers import (
    _assert_same_state,
    _data,
    _everything,
    _model,
)


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
        (_model, lambda: [torch.zeros(0, 3, 6, 6).double()], DataError, "there are no examples in the 1 batch"),
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
    with pytest.raises(ModelError, match="none of the batch norms ran on the 1 batch: '1', '5', '8'"):
        recalibrate(_model(), _data(), lambda model, batch: model[0](batch))


def test_an_iterator_is_refused_for_several_passes_before_it_is_touched():
    batches = iter(_data().split(12))
    with pytest.raises(SettingsError, match="which can be read only once; expected a list"):
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
    with pytest.raises(TooFewValuesError, match=r"'1' got one value per channel in batch 2, .*`sequential`"):
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
