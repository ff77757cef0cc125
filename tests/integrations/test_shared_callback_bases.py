"""What the callbacks of every trainer refuse: when they are made, or before the first step, not after hours of training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnkit.errors import ModelError, SettingsError
from bnkit.integrations.shared_callback_bases import FreezesFromAnEpoch, Monitors, Recalibrates

BATCH = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Monitors, {"every": 0}, "every=0; expected a whole number from 1"),
        (Monitors, {"every": "200"}, "every='200' is a str; expected a whole number from 1"),
        (Monitors, {"on_findings": 3}, "on_findings=3 is .*; expected a function, or None"),
        (Monitors, {"loaders": []}, "unknown option 'loaders'; expected one of batches, .*; did you mean 'loader'?"),
        (Recalibrates, {"limit": -1}, "limit=-1; expected a whole number from 1"),
        (Recalibrates, {"limit": 1.5}, "limit=1.5 is a float; expected a whole number from 1"),
        (Recalibrates, {"keep": "yes"}, "keep='yes' is a str; expected True or False"),
        (Recalibrates, {"forward": 3}, "forward=3 is .*; expected a function, or None"),
        (Recalibrates, {"batches": 3}, "batches is a int; expected a DataLoader, a tensor, a list of batches"),
        (Recalibrates, {"batches": iter([BATCH])}, "batches is a list_iterator, which is exhausted after one recalibration"),
        (Recalibrates, {"batches": [BATCH], "batch_size": 2}, "batch_size=2 with a list; expected a tensor to cut"),
        (Recalibrates, {"includes": "a"}, "unknown option 'includes'; expected one of sequential, .*; did you mean 'include'?"),
        (FreezesFromAnEpoch, {"start_epoch": -1}, "start_epoch=-1; expected a whole number from 0"),
        (FreezesFromAnEpoch, {"start_epoch": "2"}, "start_epoch='2' is a str; expected a whole number from 0"),
        (FreezesFromAnEpoch, {"affine": 1}, "affine=1 is .*; expected True or False"),
    ],
)  # fmt: skip
def test_an_invalid_argument_is_refused_when_the_callback_is_made(make, arguments, message):
    with pytest.raises(SettingsError, match=message):
        make(**arguments)


@pytest.mark.parametrize("make", [Recalibrates, FreezesFromAnEpoch])
@pytest.mark.parametrize(
    ("model", "arguments", "error", "message"),
    [
        (nn.Linear(3, 2), {}, ModelError, "Linear holds no batch norm; expected a model with one"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"include": "norm"}, SettingsError, "no place matches 'norm'; expected a pattern for one of 0"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"exclude": ["1"]}, SettingsError, "no place matches '1'"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_before_it_trains(make, model, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)._check(model)


@pytest.mark.parametrize("make", [Recalibrates, FreezesFromAnEpoch])
def test_a_model_that_fits_passes(make):
    shared = nn.BatchNorm1d(3)
    make(include="second", exclude="other")._check(
        nn.ModuleDict({"first": shared, "second": shared, "other": nn.BatchNorm1d(3)})
    )
    make()._check(nn.Sequential(nn.LazyBatchNorm1d()))
