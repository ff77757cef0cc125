"""What a batch norm keeps and loses when it becomes another layer."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import SettingsError
from bnkit.model.edit.convert import convert
from bnkit.model.edit.freeze import freeze, unfreeze
from bnkit.model.edit.replace import groups
from bnkit.model.layers.activated import AnyRankBatchNorm, AnyRankInstanceNorm, OurAnyRankBatchNorm
from tests.model import third_party_layers
from tests.model.third_party_layers import trained

KINDS = ["bnkit", "torch", "sync"]


def _input(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def test_who_holds_a_layer_elsewhere_holds_the_converted_one():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.by_name = {"norm": self.norm}

        def forward(self, x):
            return self.by_name["norm"](x)

    converted, _ = convert(Holding(), "bnkit")
    assert converted.by_name["norm"] is converted.norm
    assert isinstance(converted.norm, ours.BatchNorm1d)


def test_what_was_hung_on_a_layer_stays():
    layer = nn.BatchNorm2d(4)
    layer.note = "stem"
    assert convert(layer, "bnkit").model.note == "stem"


def test_a_frozen_layer_of_another_library_becomes_a_frozen_one_that_can_train():
    model = nn.Sequential(trained(third_party_layers.Frozen2d(4)))
    converted, _ = convert(model, "bnkit")
    layer = converted[0]
    assert layer.is_frozen
    assert not layer.training
    assert not any(p.requires_grad for p in converted.parameters())
    x = _input((3, 4, 5, 5))
    torch.testing.assert_close(converted.train()(x), model(x))
    # Checkpoints with a counter load, with metadata and without, as they did before.
    weights = nn.Sequential(trained(nn.BatchNorm2d(4), seed=3)).state_dict()
    for checkpoint in (weights, dict(weights), {k: v for k, v in weights.items() if "num_batches" not in k}):
        converted.load_state_dict(checkpoint, strict=True)
        assert torch.equal(layer.running_var, weights["0.running_var"])
    unfreeze(converted)
    assert layer.training
    assert layer.weight.requires_grad
    before = layer.running_mean.clone()
    converted(x)
    torch.testing.assert_close(layer.running_mean, 0.9 * before + 0.1 * x.mean((0, 2, 3)))


def test_gamma_that_learns_in_a_frozen_layer_goes_on_learning():
    converted, _ = convert(third_party_layers.FrozenWithParameters2d(4))
    assert converted.is_frozen
    assert converted.weight.requires_grad
    unfreeze(converted)
    assert converted.weight.requires_grad


@pytest.mark.parametrize("to", KINDS)
def test_a_frozen_layer_stays_frozen(to):
    model = nn.Sequential(ours.BatchNorm2d(4) if to == "torch" else nn.BatchNorm2d(4)).train()
    freeze(model, affine=True)
    converted, changes = convert(model, to)
    assert changes[0].detail.endswith("frozen")
    assert converted[0].is_frozen
    assert not converted.train()[0].training
    unfreeze(converted)
    assert converted[0].training
    assert converted[0].weight.requires_grad
    assert not hasattr(converted[0], "is_frozen")
    assert not model[0].weight.requires_grad


def test_sync_batch_norm_keeps_its_rank_free_or_gets_the_one_asked_for():
    model = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm1d(4))
    assert type(convert(model, "bnkit").model[0]) is OurAnyRankBatchNorm
    assert type(convert(model, "torch").model[0]) is AnyRankBatchNorm
    converted, changes = convert(model, "torch", dimensions=2)
    assert type(converted[0]) is nn.BatchNorm2d
    assert type(converted[1]) is nn.BatchNorm1d
    assert changes[0].detail == "torch.nn.SyncBatchNorm to torch.nn.BatchNorm2d; loses the synchronisation"
    free = convert(model, "sync").model
    assert type(convert(free, "sync", dimensions=3).model[0]) is ours.BatchNorm3d
    for layer in (free[0], convert(model, "torch").model[0]):
        with pytest.raises(SettingsError, match=r"got an input of shape \(4,\); expected \(N, C\) or"):
            layer(torch.zeros(4))


def test_process_groups_are_kept_or_given():
    group, other = _Group(), _Group()
    model = nn.Sequential(nn.SyncBatchNorm(4, process_group=group), nn.BatchNorm2d(4))
    synchronised, _ = convert(model, "sync")
    assert [layer.process_group for layer in synchronised] == [group, None]
    again, changes = convert(synchronised, "sync")
    assert changes.made == ()
    assert again[0].process_group is group
    moved, changes = convert(synchronised, "sync", process_group=other)
    assert [layer.process_group for layer in moved] == [other, other]
    assert len(changes.made) == 2
    back, changes = convert(moved, "bnkit")
    assert [(layer.sync, layer.process_group) for layer in back] == [(False, None)] * 2
    assert changes[0].detail.endswith("; loses sync=True")


class _Group:
    """Stands for a process group: it cannot be copied."""

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle a process group")


def test_what_is_lost_is_told():
    layer = ours.BatchNorm2d(4, activation="relu", skip_nonfinite=True, kernel="aten")
    _, changes = convert(layer, "torch")
    assert changes[0].detail == (
        "bnkit.nn.BatchNorm2d to ActivatedBatchNorm2d with relu; loses skip_nonfinite=True and kernel='aten'"
    )
    converted, changes = convert(layer, "sync")
    assert (converted.skip_nonfinite, converted.kernel) == (True, "aten")
    assert "loses" not in changes[0].detail


def test_the_count_of_skipped_batches_is_kept():
    layer = ours.BatchNorm2d(4, skip_nonfinite=True)
    layer(torch.full((2, 4, 2, 2), torch.nan))
    assert convert(layer, "sync").model.num_batches_skipped == 1


@pytest.mark.parametrize("activation", [None, "relu", nn.PReLU(init=0.3)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_group_norm(dimensions, activation):
    kind = {1: ours.BatchNorm1d, 2: ours.BatchNorm2d, 3: ours.BatchNorm3d}[dimensions]
    layer = trained(kind(12, activation=activation, eps=1e-3))
    converted, changes = convert(layer, "group_norm", num_groups=5)
    x = _input((3, 12, *(3,) * dimensions))
    expected = nn.functional.group_norm(x, 4, layer.weight, layer.bias, eps=1e-3)
    act = {None: lambda v: v, "relu": torch.relu}.get(activation, activation)
    torch.testing.assert_close(converted(x), act(expected))
    assert isinstance(converted, nn.GroupNorm)
    assert "running_mean" not in converted.state_dict()
    assert "of 4 groups" in changes[0].detail
    assert changes[0].detail.endswith("; loses the running statistics")


@pytest.mark.parametrize(
    ("channels", "wanted", "got"),
    [(64, 32, 32), (32, 32, 32), (48, 32, 24), (16, 32, 8), (100, 32, 25), (7, 32, 1), (1, 32, 1), (6, 4, 3)],
)
def test_the_number_of_groups(channels, wanted, got):
    assert groups(channels, wanted) == got


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"bias": False}])
def test_instance_norm(dimensions, activation, arguments):
    kind = {1: ours.BatchNorm1d, 2: ours.BatchNorm2d, 3: ours.BatchNorm3d}[dimensions]
    layer = trained(kind(4, activation=activation, eps=1e-3, **arguments))
    converted, changes = convert(layer, "instance_norm")
    x = _input((3, 4, *(3,) * dimensions))
    expected = nn.functional.instance_norm(x, weight=layer.weight, bias=layer.bias, eps=1e-3)
    expected = expected if activation is None else torch.tanh(expected)
    for mode in (True, False):
        torch.testing.assert_close(converted.train(mode)(x), expected)
    assert [name for name, _ in converted.named_parameters()] == [name for name, _ in layer.named_parameters()]
    assert changes[0].detail.endswith("; loses the running statistics")


def test_instance_norm_of_features_is_refused_when_it_runs():
    converted, _ = convert(nn.BatchNorm1d(4), "instance_norm")
    assert isinstance(converted, AnyRankInstanceNorm)
    with pytest.raises(SettingsError, match=r"input of shape \(6, 4\): one value per channel"):
        converted(torch.zeros(6, 4))


def test_an_activation_with_weights_keeps_its_name_and_learns():
    converted, _ = convert(third_party_layers.WithActivation2d(4, nn.PReLU), "bnkit")
    assert "act.weight" in converted.state_dict()
    twin = copy.deepcopy(converted)
    twin.act.weight.data.fill_(0.7)
    x = _input((3, 4, 5, 5))
    torch.testing.assert_close(twin(x), nn.functional.prelu(nn.BatchNorm2d(4)(x), torch.tensor([0.7])))
    twin(x).sum().backward()
    assert twin.act.weight.grad is not None


def test_an_activated_layer_of_torch_takes_a_residual():
    x, residual = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = ours.BatchNorm2d(4, activation="relu")
    torch.testing.assert_close(convert(layer, "torch").model(x, residual), layer(x, residual))


@pytest.mark.parametrize(
    ("layer", "shape", "groups"),
    [
        (nn.BatchNorm1d(4), (6, 4), 4),
        (nn.BatchNorm1d(4), (6, 4, 1), 4),
        (nn.BatchNorm2d(4), (6, 4, 1, 1), 4),
        (nn.BatchNorm1d(1), (6, 1), 32),
        (ours.BatchNorm1d(4, activation="relu"), (6, 4), 4),
        (ours.BatchNorm2d(1, activation=nn.PReLU()), (6, 1, 1, 1), 32),
    ],
)
def test_group_norm_of_one_value_a_group_is_refused_when_it_runs(layer, shape, groups):
    converted = convert(nn.Sequential(layer), "group_norm", num_groups=groups).model
    with pytest.raises(SettingsError, match="one value a group, so that every output would be beta; take fewer groups"):
        converted(torch.randn(shape))
    more = torch.randn(*shape[:2], 3) if len(shape) < 4 else torch.randn(*shape[:2], 3, 3)
    expected = nn.functional.group_norm(more, shape[1])
    if isinstance(layer, ours.BatchNorm1d | ours.BatchNorm2d):
        expected = expected.relu() if layer.activation == "relu" else layer.activation(expected)
    torch.testing.assert_close(converted(more), expected)
    assert convert(converted, "group_norm").changes.made == ()


def test_two_values_a_group_are_taken_and_the_layer_compiles_to_torchscript():
    converted = convert(nn.Sequential(nn.BatchNorm1d(4)), "group_norm", num_groups=2).model
    assert type(converted[0]) is nn.GroupNorm
    x = torch.randn(6, 4)
    torch.testing.assert_close(converted(x), nn.functional.group_norm(x, 2))
    images = torch.randn(3, 4, 5, 5)
    alone = convert(nn.Sequential(nn.BatchNorm2d(4)), "group_norm", num_groups=4).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.testing.assert_close(torch.jit.script(alone)(images), alone(images))
    torch.testing.assert_close(copy.deepcopy(alone)(images), alone(images))
