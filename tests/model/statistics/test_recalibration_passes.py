"""What recalibrate says: that of a batch with examples, and of layers that got none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bnkit
import bnkit.errors
from bnkit.model.inspect.example import largest_difference
from tests.model.edit.test_fold import _trained


def _model():
    torch.manual_seed(0)
    return _trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))).eval()


def _data():
    return torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(1)) * 2 + 1


def _labels(count):
    return torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    "batches",
    [
        lambda x: [x],
        lambda x: [x[:0], x],
        lambda x: [x[:0], x[:0], x, x[:0]],
        lambda x: [(x[:0], _labels(3)), (x, _labels(8))],  # labels without inputs
        lambda x: [{"input": x[:0]}, {"input": x}],
    ],
    ids=["none is empty", "the first is", "the first two are", "with labels", "by keyword"],
)
def test_the_change_is_that_of_the_first_batch_with_examples(batches, sequential):
    model, x = _model(), _data()
    before = model(x)
    recalibration = bnkit.recalibrate(model, batches(x), sequential=sequential)
    assert recalibration.output_change == pytest.approx(largest_difference(before, model(x)))
    assert recalibration.output_change > 0.1
    assert recalibration.batches == len(batches(x))
    expected = model[0](x).detach().mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, expected)


def test_the_first_of_an_iterator_is_not_lost():
    model, x = _model(), _data()
    assert bnkit.recalibrate(model, iter([x[:0], x])).output_change > 0.1
    torch.testing.assert_close(model[1].running_mean, model[0](x).detach().mean((0, 2, 3)))


class _Returning(nn.Module):
    def __init__(self, model, returned):
        super().__init__()
        self.model, self.returned = model, returned

    def forward(self, x):
        return self.returned(self.model(x))


@pytest.mark.parametrize(
    ("returned", "change"),
    [
        (lambda y: y.flatten(1).argmax(1), None),
        (lambda y: None, None),
        (lambda y: y * math.nan, None),
        (lambda y: y[:0], None),
        (lambda y: (y.flatten(1).argmax(1), y), 0.1),
    ],
    ids=["class numbers", "nothing", "NaN", "no rows", "class numbers and scores"],
)
def test_nothing_is_said_where_nothing_was_compared(returned, change):
    recalibration = bnkit.recalibrate(_Returning(_model(), returned), _data())
    if change is None:
        assert recalibration.output_change is None
        assert recalibration.summary == "1 recalibrated, 0 kept, 1 batch"
    else:
        assert recalibration.output_change > change


@pytest.mark.parametrize(
    "returned", [lambda y: y.flatten(1).argmax(1), lambda y: None], ids=["class numbers", "nothing"]
)
def test_neither_does_a_verb_speak_of_an_error(returned):
    changes = bnkit.fold(_Returning(_model(), returned), _data()).changes
    assert changes.error is None
    assert changes.summary == "1 changed, 0 kept"


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (_model, torch.ones(0, 3, 9, 9), "holds no values"),
        (lambda: _Returning(_model(), lambda y: y / 0 * 0), _data(), "is NaN or inf throughout"),
    ],
    ids=["empty", "NaN"],
)
def test_an_example_that_proves_nothing_is_refused(model, inputs, reason):
    for verb in (bnkit.fold, lambda m, x: bnkit.remove(m, x, preserve=True)):
        with pytest.raises(bnkit.errors.ModelError, match=f"an output on the example that {reason}"):
            verb(model(), inputs)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(bnkit.errors.ModelError, match="nothing can be compared"):
        bnkit.add(plain, torch.ones(0, 3, 9, 9), preserve=True)
    assert len(bnkit.add(plain, torch.ones(0, 3, 9, 9)).changes.made) == 1


class _Routed(nn.Module):
    """Each example goes to one of two layers."""

    def __init__(self):
        super().__init__()
        self.few, self.many = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.many(x[x[:, 0] < 9]), self.few(x[x[:, 0] > 9])])


class _ChannelsLast(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    ("model", "inputs", "site", "reason"),
    [
        (_Routed(), torch.randn(8, 4), "few", "got no values in any batch"),
        (
            nn.Sequential(_ChannelsLast(3), nn.Flatten(0, 1), nn.BatchNorm1d(3)), torch.randn(8, 5, 3), "0",
            "its inputs are not of the form (N, C, *) with as many channels as its statistics",
        ),
    ],
    ids=["no values", "another form"],
)  # fmt: skip
def test_layers_that_ran_are_not_said_not_to_have_run(model, inputs, site, reason):
    kept = bnkit.recalibrate(model, inputs).kept
    assert [(change.site, change.detail) for change in kept] == [(site, reason)]
