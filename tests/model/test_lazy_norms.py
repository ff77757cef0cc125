"""Converting layers that have not seen an input yet."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import ModelError
from bnkit.model.convert import convert
from tests.model.foreign import trained

KINDS = ["bnkit", "torch", "sync"]


def _input(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("to", KINDS)
def test_a_lazy_layer_becomes_the_kind_when_it_sees_an_input(to):
    x = _input((3, 4, 5, 5))
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.LazyBatchNorm2d(eps=1e-3, momentum=None))
    converted, changes = convert(model, to)
    assert len(changes.made) == (to != "torch")
    assert convert(converted, to).changes.made == ()
    back = convert(convert(model, "sync").model, to).model
    for result in (converted, back):
        expected = nn.BatchNorm2d(4, eps=1e-3, momentum=None)
        y = result(x)
        torch.testing.assert_close(y, expected(model[0](x)))
        assert isinstance(result[1], ours.BatchNorm2d) == (to != "torch")
        assert type(result[1]).__name__ == "BatchNorm2d"
        assert getattr(result[1], "sync", False) == (to == "sync")
        assert list(result[1].state_dict()) == list(expected.state_dict())
        torch.testing.assert_close(result[1].running_mean, expected.running_mean)
    assert isinstance(model[1], nn.LazyBatchNorm2d)
    assert model[1].has_uninitialized_params()


def test_a_lazy_layer_that_was_loaded_is_converted_as_any():
    model = nn.LazyBatchNorm2d()
    weights = trained(nn.BatchNorm2d(4))
    model.load_state_dict(weights.state_dict())
    converted, _ = convert(model, "bnkit")
    x = _input((3, 4, 5, 5))
    torch.testing.assert_close(converted.eval()(x), weights.eval()(x))


@pytest.mark.parametrize("to", ["group_norm", "instance_norm"])
def test_a_lazy_layer_that_cannot_wait_is_refused(to):
    with pytest.raises(ModelError, match="LazyBatchNorm2d, which has not seen an input yet; run the model once"):
        convert(nn.Sequential(nn.LazyBatchNorm2d()), to)
