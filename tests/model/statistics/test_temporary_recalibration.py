"""Statistics of the data for as long as the context lasts, and those of before afterwards, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import BnkitError

DATA = torch.randn(32, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5


def _model():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), bnkit.nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].running_mean.copy_(torch.tensor([float("nan"), -0.0, float("inf"), 1.5]))
    model[3].num_batches_tracked.fill_(7)
    return model


def _bits(model):
    return {
        name: value.view(torch.int32 if value.is_floating_point() else value.dtype).clone()
        for name, value in model.state_dict().items()
    }


def _same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_inside_are_the_statistics_that_recalibrate_sets_and_afterwards_those_of_before():
    model, reference = _model(), _model()
    before = _bits(model)
    bnkit.recalibrate(reference, DATA, batch_size=8)
    with bnkit.recalibrated(model, DATA, batch_size=8) as recalibration:
        assert _same(_bits(model), _bits(reference))
        assert {drift.layer for drift in recalibration.layers} == {"1", "3"}
        assert torch.equal(model.eval()(DATA), reference.eval()(DATA))
    assert _same(_bits(model), before)
    assert not model.training  # what was set inside stays


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_is_raised_inside(error):
    model = _model()
    before = _bits(model)
    with pytest.raises(error), bnkit.recalibrated(model, DATA):
        raise error
    assert _same(_bits(model), before)


def test_training_inside_moves_no_statistics_in_the_end():
    model = _model()
    before = _bits(model)
    with bnkit.recalibrated(model, DATA):
        model.train()(DATA)
        assert model[3].num_batches_tracked == 8
    assert _same(_bits(model), before)


def test_contexts_may_be_nested():
    model = _model()
    before = _bits(model)
    with bnkit.recalibrated(model, DATA):
        outer = _bits(model)
        with bnkit.recalibrated(model, DATA[:8] + 3):
            assert not _same(_bits(model), outer)
        assert _same(_bits(model), outer)
    assert _same(_bits(model), before)


def test_it_takes_what_recalibrate_takes_and_refuses_what_it_refuses():
    model = _model()
    model[1].reset_running_stats()  # it is kept, and what it gives to the next one has to be finite
    before = _bits(model)
    options = {"forward": lambda model, batch: model(batch["x"]), "include": "3", "sequential": True}
    with bnkit.recalibrated(model, [{"x": DATA}], **options) as recalibration:
        assert [drift.layer for drift in recalibration.layers] == ["3"]
        assert _same({"1": _bits(model)["1.running_mean"]}, {"1": before["1.running_mean"]})
    for wrong in (nn.Sequential(nn.Linear(3, 1)), nn.Sequential(nn.LazyBatchNorm1d()), "a model"):
        with pytest.raises(BnkitError), bnkit.recalibrated(wrong, DATA):
            pytest.fail("went in")
    with pytest.raises(TypeError, match="'batch'"), bnkit.recalibrated(model, DATA, batch=3):
        pytest.fail("went in")
    assert _same(_bits(model), before)


def test_after_averaging_weights():
    from torch.optim.swa_utils import AveragedModel

    model = _model()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    before = _bits(averaged)
    with bnkit.recalibrated(averaged, DATA):
        assert torch.allclose(averaged.module[1].running_mean, model[0](DATA).mean(0), atol=1e-5)
    assert _same(_bits(averaged), before)
