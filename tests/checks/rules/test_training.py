"""BN3xx: each fires where it should, and is silent on the repaired set-up."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

import bnkit
from bnkit.checks.check import check
from bnkit.checks.rules.training.bn303_last_batch import last_batch


def _model():
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4))


def _images():
    return nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8))


def _found(code, model, **arguments):
    return [(finding.site, finding.severity.value) for finding in check(model, select=code, **arguments)]


def _loader(count, batch_size, **arguments):
    return DataLoader(TensorDataset(torch.zeros(count, 4)), batch_size, **arguments)


@pytest.mark.parametrize(
    ("groups", "is_found"),
    [
        (lambda m: [{"params": m.parameters(), "weight_decay": 0.1}], True),
        (lambda m: [{"params": m.parameters(), "weight_decay": 0.0}], False),
        (lambda m: [{"params": [m[1].weight], "weight_decay": 0.1}], True),
        (lambda m: [{"params": [m[1].bias], "weight_decay": 0.1}], True),
        (lambda m: [{"params": [m[0].weight, m[3].weight], "weight_decay": 0.1}, {"params": m[1].parameters()}], False),
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_weight_decay(groups, is_found, kind):
    model = _model()
    given = [{"weight_decay": 0.0, **group} for group in groups(model)]
    optimizer = kind(given, lr=0.1)
    assert _found("BN301", model, optimizer=optimizer) == ([("1", "note")] if is_found else [])


def test_weight_decay_on_what_does_not_learn():
    model = _model().requires_grad_(False)
    model[0].weight.requires_grad_(True)
    assert not check(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0), select="BN301")


class Keeping(nn.Sequential):
    """Its batch norms stay in evaluation mode, whatever it is told."""

    def train(self, mode=True):
        super().train(mode)
        for module in self:
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self


def _by_hand(model):
    model[1].eval()
    return model


def _without_gradient(model):
    model[1].requires_grad_(False)
    return model


def _frozen(model, **arguments):
    bnkit.freeze(model, **arguments)
    return model


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (_model, []),
        (lambda: _by_hand(_model()), ["1"]),
        (lambda: _model().eval(), []),
        (lambda: _without_gradient(_model()), ["1"]),
        (lambda: _without_gradient(_model()).eval(), ["1"]),
        (lambda: _model().requires_grad_(False), []),  # nothing learns: it is in use
        (lambda: _frozen(_without_gradient(_model())), []),
        (lambda: _frozen(_model(), affine=True), []),
        (lambda: Keeping(*_model()).train(), []),
        (lambda: _without_gradient(Keeping(*_model()).train()), []),
        (lambda: _by_hand(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))), []),
    ],
)
def test_frozen_layers_that_train_unfreezes(make, sites):
    assert [site for site, _ in _found("BN302", make())] == sites


@pytest.mark.parametrize(
    ("model", "shape", "loader", "expected"),
    [
        (_model, (2, 4), lambda: _loader(65, 32), [("1", "error")]),
        (_model, None, lambda: _loader(65, 32), [("1", "error")]),
        (_model, (2, 4), lambda: _loader(65, 32, drop_last=True), []),
        (_model, (2, 4), lambda: _loader(66, 32), []),
        (_model, (2, 4), lambda: _loader(64, 32), []),
        (_model, (2, 4), lambda: _loader(5, 1), [("1", "error")]),
        (_images, (2, 4, 5, 5), lambda: _loader(65, 32), [("1", "warning")]),
        (_images, (2, 4, 3, 3), lambda: _loader(65, 32), [("1", "error")]),
        (lambda: _frozen(_model()), (2, 4), lambda: _loader(65, 32), []),
        (_model, (2, 4), lambda: [torch.zeros(2, 4)], []),
    ],
)
def test_a_last_batch_of_one(model, shape, loader, expected):
    example = None if shape is None else torch.randn(shape)
    assert _found("BN303", model(), loader=loader(), example_inputs=example) == expected


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.zeros(9, 4)


class Pairs(BatchSampler):
    """Says nothing about sizes that could be relied on."""

    def __iter__(self):
        yield [0]


def _batches_of_four(drop_last):
    sampler = BatchSampler(SequentialSampler(range(9)), 4, drop_last)
    return DataLoader(range(9), batch_sampler=sampler)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (lambda: _batches_of_four(drop_last=False), 1),
        (lambda: _batches_of_four(drop_last=True), 4),
        (lambda: DataLoader(range(3), batch_size=4, drop_last=True), 3),
        (lambda: DataLoader(Stream(), batch_size=4), None),
        (lambda: DataLoader(range(9), batch_size=None), None),
        (lambda: DataLoader(range(9), batch_sampler=Pairs(SequentialSampler(range(9)), 4, False)), None),
        (lambda: iter([]), None),
    ],
)
def test_how_many_examples_the_last_batch_has(loader, expected):
    assert last_batch(loader()) == expected


@pytest.mark.parametrize(
    ("size", "accumulation", "make", "is_found"),
    [
        (4, 8, _model, True),
        (15, 2, _model, True),
        (16, 2, _model, False),
        (4, 1, _model, False),
        (4, 8, lambda: _frozen(_model()), False),
    ],
)
def test_accumulation(size, accumulation, make, is_found):
    findings = _found("BN304", make(), loader=_loader(64, size), accumulation=accumulation)
    assert findings == ([("1", "warning")] if is_found else [])


@pytest.mark.parametrize(
    ("size", "processes", "make", "is_found"),
    [
        (8, 4, _model, True),
        (8, 1, _model, False),
        (8, None, _model, False),
        (16, 4, _model, False),
        (8, 4, lambda: bnkit.convert(_model(), to="sync").model, False),
        (8, 4, lambda: nn.SyncBatchNorm.convert_sync_batchnorm(_model()), False),
        (8, 4, lambda: _frozen(_model()), False),
    ],
)
def test_small_batches_in_several_processes(size, processes, make, is_found):
    findings = _found("BN305", make(), loader=_loader(64, size), processes=processes)
    assert findings == ([("1", "warning")] if is_found else [])


def _averaged(steps, **arguments):
    model = _model()
    averaged = AveragedModel(model, **arguments)
    for step in range(steps):
        with torch.no_grad():
            model(torch.randn(8, 4) + 1)
            model[0].weight.add_(0.1 * (step + 1))
        averaged.update_parameters(model)
    return model, averaged


def _copied_once(model):
    """As some implementations do: the buffers stay those of the beginning."""
    averaged = _model()
    with torch.no_grad():
        for average, parameter in zip(averaged.parameters(), model.parameters(), strict=True):
            average.copy_(parameter + 1)
    return averaged


def test_averaged_weights_with_stale_running_stats():
    model, averaged = _averaged(3)
    findings = check(model, ema=averaged, select="BN306")
    assert [finding.site for finding in findings] == ["1"]
    assert "last step, like 1 more batch norm" in findings[0].message
    bnkit.recalibrate(averaged, torch.randn(32, 4))
    assert not check(model, ema=averaged, select="BN306")


def test_averaged_statistics_and_what_is_not_averaged_yet():
    model, averaged = _averaged(3, use_buffers=True)
    assert not check(model, ema=averaged, select="BN306")
    model, averaged = _averaged(0)
    assert not check(model, ema=averaged, select="BN306")


def test_statistics_of_the_beginning():
    model, _ = _averaged(2)
    averaged = _copied_once(model)
    (finding,) = check(model, ema=averaged, select="BN306")
    assert "of an untrained one" in finding.message
    torch.optim.swa_utils.update_bn([torch.randn(32, 4)], averaged)
    assert not check(model, ema=averaged, select="BN306")


@pytest.mark.parametrize(
    "arguments", [{"accumulation": 0}, {"processes": 0}, {"accumulation": "2"}, {"processes": 1.5}]
)
def test_invalid_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match="expected a whole number from 1"):
        check(_model(), **arguments)
