"""The twin without batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit.add import add
from bnkit.model.edit.remove import remove
from bnkit.model.inspect.example import Example, largest_difference
from tests.model.edit.test_fold import CASES, _norms, _outputs, _trained
from tests.model.networks import ALL, PlainCnn, built, example


@pytest.mark.parametrize("where", ["before_activation", "after_activation"])
@pytest.mark.parametrize("preserve", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_what_add_put_in_is_taken_out_without_a_trace(kind, preserve, where):
    model = built(kind)
    added, changes = add(model, example(model), preserve=preserve, where=where)
    if not changes.made:
        with pytest.raises(ModelError, match=f"{kind.__name__} has no batch norm"):
            remove(added, example(model))
        return
    twin, changes = remove(added, example(model))
    assert len(changes.made) == len(_norms(added))
    assert str(twin) == str(model)
    assert list(twin.state_dict()) == list(model.state_dict()) or twin.state_dict().keys() == model.state_dict().keys()
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-6, atol=1e-6)
    assert largest_difference(_outputs(model, example(model)), _outputs(twin, example(model))) < 1e-5


def test_once_trained_the_bias_begins_at_nothing():
    model = built(PlainCnn)
    added, _ = add(model, example(model))
    Example(example(model)).run(added.train())
    twin, changes = remove(added, example(model))
    assert torch.equal(twin.conv.bias, torch.zeros(8))
    assert changes[0].detail == "its layer has its bias again, from 0"
    assert torch.equal(twin.conv.weight, model.conv.weight)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_with_preserve_it_computes_the_same(case):
    model, shape, _ = case
    model = _trained(model).train()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    twin, changes = remove(model, inputs, preserve=True)
    assert twin.training
    assert changes[0].action == "removed"
    assert changes.error < 2e-6
    assert largest_difference(_outputs(model, inputs), _outputs(twin, inputs)) < 2e-6
    model.train()


def test_a_bias_where_batch_norm_stood_in_for_one():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, bias=False), bnkit.nn.BatchNorm2d(6, activation="silu"),
        nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(50, 3, bias=False), nn.BatchNorm1d(3, affine=False),
    ).train()  # fmt: skip
    twin, changes = remove(model, torch.randn(2, 3, 6, 6))
    assert [change.detail for change in changes] == [
        "0 got a bias",
        "3 got a bias",
        "5 has its bias",
        "nothing replaces it",
    ]
    assert torch.equal(twin[0].bias, torch.zeros(4)) and twin[0].bias.requires_grad
    assert twin[3].bias.shape == (6,)
    assert isinstance(twin[1], nn.Identity)
    assert isinstance(twin[4], nn.SiLU)
    assert twin[8].bias is None  # there was no shift to stand in for one
    assert torch.equal(twin[0].weight, model[0].weight)
    assert twin.training
    assert model[0].bias is None
    assert isinstance(model[1], nn.BatchNorm2d)


class _BeforeActivation(nn.Module):
    """As networks that normalise first: what comes in goes on beside it, and the activation works in place."""

    def __init__(self, *norm):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(3, 4, 1), nn.Sequential(*norm), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.stem(x).sigmoid() - 0.5
        return x + self.conv(self.norm(x))


class _InPlace2d(nn.BatchNorm2d):
    """Its activation works in place."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(super().forward(x))


@pytest.mark.parametrize(
    "norm", [(nn.BatchNorm2d(4), nn.ReLU(inplace=True)), (_InPlace2d(4),)], ids=["behind it", "in it"]
)
def test_what_follows_in_place_leaves_the_input_of_the_batch_norm_alone(norm):
    model, inputs = _BeforeActivation(*norm), torch.randn(2, 3, 5, 5)
    twin, _ = remove(model, inputs)
    x = model.stem(inputs).sigmoid() - 0.5
    torch.testing.assert_close(twin(inputs), x + model.conv(x.relu()))
    twin(inputs).sum().backward()
    torch.testing.assert_close(twin(inputs), x + model.conv(x.relu()))


def test_what_follows_in_place_leaves_the_example_alone():
    model, inputs = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True)), torch.randn(2, 3, 5, 5)
    twin, _ = remove(model, inputs)
    before = inputs.clone()
    assert torch.equal(twin(inputs), before.relu())
    assert torch.equal(inputs, before)


class _Signs(nn.Conv2d):
    """It takes no more of its parameters than the signs."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.sign()
        return self._conv_forward(x, self.weight.sign(), bias)


class _Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("kind", "detail"),
    [(_Signs, "0 has a custom forward, which does not add a bias"), (_Padded, "0 got a bias")],
)
def test_a_layer_with_a_forward_of_its_own_gets_a_bias_if_it_adds_it(kind, detail):
    model = nn.Sequential(kind(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    twin, changes = remove(model, torch.randn(2, 3, 6, 6))
    assert changes[0].detail == detail
    assert (twin[0].bias is None) == (kind is _Signs)
    torch.testing.assert_close(twin(torch.ones(2, 3, 6, 6)), model[0](torch.ones(2, 3, 6, 6)))


def test_patterns_and_what_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    twin, changes = remove(model, torch.randn(3, 4), exclude="1")
    assert _norms(twin) == ["1"]
    assert changes[0].detail == "it is left out by include or exclude"
    with pytest.raises(SettingsError, match="no place matches 'conv'"):
        remove(model, torch.randn(3, 4), include="conv")
    with pytest.raises(ModelError, match="Sequential raised RuntimeError on the example"):
        remove(model, torch.randn(3, 5))


def test_a_batch_norm_that_is_the_whole_model():
    twin, _ = remove(nn.BatchNorm1d(4), torch.randn(3, 4))
    assert isinstance(twin, nn.Identity)
