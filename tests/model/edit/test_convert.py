"""Converting batch norms: what stays, what is refused, there and back."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from bnkit import nn as ours
from bnkit.errors import ModelError, SettingsError
from bnkit.model.edit.convert import convert
from tests.model import third_party_layers
from tests.model.third_party_layers import trained

CASES = {  # a layer, and the shape of its input
    "1d of features": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "1d of sequences": (lambda: nn.BatchNorm1d(4, eps=1e-3), (6, 4, 5)),
    "2d": (lambda: nn.BatchNorm2d(4, momentum=0.3), (3, 4, 5, 5)),
    "3d": (lambda: nn.BatchNorm3d(4), (3, 4, 2, 3, 3)),
    "cumulative": (lambda: nn.BatchNorm2d(4, momentum=None), (3, 4, 5, 5)),
    "not affine": (lambda: nn.BatchNorm2d(4, affine=False), (3, 4, 5, 5)),
    "without beta": (lambda: _without_beta(nn.BatchNorm2d(4)), (3, 4, 5, 5)),
    "without statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (3, 4, 5, 5)),
    "tracking turned off": (lambda: _untracked(nn.BatchNorm2d(4)), (3, 4, 5, 5)),
    "double": (lambda: nn.BatchNorm2d(4).double(), (3, 4, 5, 5)),
    "sync": (lambda: nn.SyncBatchNorm(4), (3, 4, 5, 5)),
    "sync of features": (lambda: nn.SyncBatchNorm(4), (6, 4)),
    "with silu": (lambda: third_party_layers.WithActivation2d(4, nn.SiLU), (3, 4, 5, 5)),
    "with prelu": (lambda: third_party_layers.WithActivation2d(4, nn.PReLU), (3, 4, 5, 5)),
    "with relu6": (lambda: third_party_layers.WithActivation2d(4, nn.ReLU6), (3, 4, 5, 5)),
    "subclass": (lambda: third_party_layers.Renamed2d(4), (3, 4, 5, 5)),
    "frozen": (lambda: third_party_layers.Frozen2d(4), (3, 4, 5, 5)),
    "frozen with sigmoid": (lambda: third_party_layers.Frozen2d(4, act=nn.Sigmoid), (3, 4, 5, 5)),
    "from scratch": (lambda: third_party_layers.FromScratch(4), (3, 4, 5, 5)),
    "ours": (lambda: ours.BatchNorm2d(4, activation="gelu"), (3, 4, 5, 5)),
    "ours with a module": (lambda: ours.BatchNorm2d(4, activation=nn.PReLU(4)), (3, 4, 5, 5)),
}
KINDS = ["bnkit", "torch", "sync"]


def _without_beta(layer):
    layer.register_parameter("bias", None)
    return layer


def _untracked(layer):
    layer.track_running_stats = False
    return layer


def _input(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def _after(model, x):
    """Outputs, gradients and state of two training steps and an evaluation."""
    results = []
    for mode in (True, True, False):
        model.train(mode)
        leaf = x.clone().requires_grad_()
        output = model(leaf)
        output.square().sum().backward()
        results += [output.detach(), leaf.grad]
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results, gradients, model.state_dict()


def _assert_same(first, second, *, to_the_bit):
    for one, other in zip(first[0], second[0], strict=True):
        assert torch.equal(one, other) if to_the_bit else torch.testing.assert_close(one, other) is None
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value.dtype == other[key].dtype
            if to_the_bit:
                assert torch.equal(value, other[key]), key
            else:
                torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", KINDS)
def test_it_computes_the_same_and_keeps_its_keys(name, to):
    make, shape = CASES[name]
    model = nn.Sequential(trained(make()))
    x = _input(shape, next((p.dtype for p in model.parameters()), torch.float32))
    converted, changes = convert(model, to)
    assert list(converted.state_dict()) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[key], value)
    assert len(changes) == 1
    is_ours = isinstance(converted[0], ours.batch_norm._BatchNorm)
    assert is_ours == (to != "torch")
    if is_ours:
        assert converted[0].sync == (to == "sync")
    _assert_same(_after(model, x), _after(converted, x), to_the_bit=False)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", [*KINDS, "group_norm", "instance_norm"])
def test_a_second_time_changes_nothing(name, to):
    model = trained(CASES[name][0]())
    once, _ = convert(model, to)
    twice, changes = convert(once, to)
    assert changes.made == ()
    assert len(changes.kept) == 1
    assert type(twice) is type(once)
    assert vars(twice).keys() == vars(once).keys()
    assert repr(twice) == repr(once)


_BACK = {  # which cases, and by what
    "torch": ["ours", "ours with a module"],
    "bnkit": ["1d of features", "1d of sequences", "2d", "cumulative", "not affine", "without beta", "double"],
    "sync": ["2d", "3d", "cumulative", "without statistics", "tracking turned off"],
}


@pytest.mark.parametrize(("by", "name"), [(by, name) for by, names in _BACK.items() for name in names])
def test_there_and_back_is_equal_to_the_bit(by, name):
    make, shape = CASES[name]
    model = trained(make())
    there = convert(model, by).model
    back = convert(there, "bnkit" if by == "torch" else "torch").model
    assert type(there) is not type(model)
    assert type(back) is type(model)
    assert repr(back) == repr(model)
    x = _input(shape, next((p.dtype for p in model.parameters()), torch.float32))
    _assert_same(_after(model, x), _after(back, x), to_the_bit=True)


def _network():
    shared = nn.BatchNorm2d(4)
    return nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            "left": nn.Sequential(nn.Conv2d(4, 4, 1), shared),
            "right": nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.BatchNorm2d(4)),
        }
    )


def test_the_model_given_stays_as_it_was():
    model = _network()
    model.train()
    model["left"].eval()
    calls = []
    model["stem"][1].register_forward_hook(lambda *arguments: calls.append(1))
    before = {name: (type(m), m.training, repr(m), len(m._forward_hooks)) for name, m in model.named_modules()}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    values = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    converted, _ = convert(model, "bnkit")
    assert torch.equal(torch.get_rng_state(), state)
    after = {name: (type(m), m.training, repr(m), len(m._forward_hooks)) for name, m in model.named_modules()}
    assert after == before
    assert all(tensor is tensors[name] for name, tensor in (*model.named_parameters(), *model.named_buffers()))
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    # The copy has modes and hooks as well, and shares no memory.
    modes = {name: m.training for name, m in converted.named_modules()}
    assert modes == {name: m.training for name, m in model.named_modules()}
    converted["stem"][1](torch.zeros(1, 4, 2, 2))
    assert calls == [1]
    pointers = {p.data_ptr() for p in model.parameters()}
    assert pointers.isdisjoint(p.data_ptr() for p in converted.parameters())


def test_a_shared_layer_stays_shared_and_is_named_once():
    converted, changes = convert(_network(), "bnkit")
    assert converted["left"][1] is converted["right"][1]
    assert [change.site for change in changes] == ["stem.1", "left.1", "right.2"]
    assert changes[1].detail.endswith("; also at right.1")


def test_tied_and_still_parameters_stay_so():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    model[1].weight = model[0].weight
    model[2].bias = model[0].bias
    model[0].bias.requires_grad_(False)
    converted, _ = convert(model, "sync")
    assert converted[1].weight is converted[0].weight
    assert converted[2].bias is converted[0].bias
    assert [p.requires_grad for p in converted.parameters()] == [p.requires_grad for p in model.parameters()]


def test_include_and_exclude():
    converted, changes = convert(_network(), "bnkit", include=["stem.*", "right.*"], exclude="left.1")
    kinds = [isinstance(converted.get_submodule(c.site), ours.BatchNorm2d) for c in changes]
    assert kinds == [True, False, True]  # left.1 is right.1 too, and left out under one of its names
    assert [c.is_made for c in changes] == kinds
    assert "left out" in changes[1].detail
    with pytest.raises(SettingsError, match="no place matches 'head'"):
        convert(_network(), include="head")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: third_party_layers.Ghost2d(4), "computes something else in training"),
        (lambda: third_party_layers.Doubled2d(4), "computes something else in evaluation"),
        (lambda: third_party_layers.OfTwoInputs2d(4), "takes more than the input: other"),
        (lambda: third_party_layers.NeedsTwoInputs2d(4), "raises TypeError"),
        (lambda: third_party_layers.Counting2d(4), "holds seen besides"),
    ],
)
@pytest.mark.parametrize("to", ["bnkit", "group_norm"])
def test_a_class_that_does_something_else_is_refused_by_name(make, reason, to):
    layer = make()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), layer, make())
    before = repr(model)
    with pytest.raises(ModelError) as caught:
        convert(model, to)
    message = str(caught.value)
    assert message.startswith(f"2 and 1 more: {type(layer).__name__}, which {reason}")
    assert f"how={{{type(layer).__name__}: function}}" in message
    assert repr(model) == before
    converted, changes = convert(model, to, exclude=["2", "3"])
    assert [c.is_made for c in changes] == [True, False, False]
    assert type(converted[2]) is type(layer)


def test_what_only_looks_like_a_batch_norm_is_kept_with_the_reason():
    _, changes = convert(nn.Sequential(nn.BatchNorm2d(4), third_party_layers.AbsoluteGamma(4)))
    assert [c.action for c in changes] == ["converted", "kept"]
    assert "AbsoluteGamma, which computes something else" in changes[1].detail


def test_how_says_what_becomes_of_a_class():
    given = []

    def as_doubled(module):
        given.append(module)
        return nn.Sequential(nn.BatchNorm2d(4), nn.Identity())

    shared = third_party_layers.Doubled2d(4)
    calls = []
    shared.register_forward_hook(lambda *arguments: calls.append(1))
    model = nn.ModuleList([shared, nn.Sequential(shared), nn.BatchNorm2d(4)]).eval()
    converted, changes = convert(model, how={third_party_layers.Doubled2d: as_doubled})
    assert converted[0] is converted[1][0]
    assert given[0] is not shared
    assert len(given) == 1
    assert not converted[0][0].training
    converted[0](torch.zeros(1, 4, 2, 2))
    assert calls == [1]
    assert changes[0].detail == "Doubled2d to Sequential, by how; also at 1.0"
    assert isinstance(converted[2], ours.BatchNorm2d)
    # What wraps the layer: its hooks stay inside.
    assert convert(model, how={third_party_layers.Doubled2d: nn.Sequential}).model[0]._forward_hooks == {}
    # The whole model; a class that no one would take for a batch norm; itself, to be left alone; nonsense.
    assert isinstance(convert(shared, how={third_party_layers.Doubled2d: as_doubled}).model, nn.Sequential)
    model = nn.Sequential(nn.LayerNorm(4))
    assert isinstance(convert(model, how={nn.LayerNorm: lambda m: nn.Identity()}).model[0], nn.Identity)
    assert convert(shared, how={third_party_layers.Doubled2d: lambda m: m}).changes[0].action == "kept"
    with pytest.raises(ModelError, match=r"how\[Doubled2d\] returned a NoneType; expected an nn.Module"):
        convert(shared, how={third_party_layers.Doubled2d: lambda m: None})


@pytest.mark.parametrize("name", ["with silu", "with prelu", "ours", "sync", "frozen"])
@pytest.mark.parametrize("to", [*KINDS, "group_norm", "instance_norm"])
def test_the_result_copies_pickles_and_saves(name, to):
    make, shape = CASES[name]
    converted, _ = convert(trained(make()), to)
    converted.eval()
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    x = _input(shape)
    for twin in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),  # noqa: S301
        torch.load(file, weights_only=False),
    ):
        assert type(twin) is type(converted)
        assert torch.equal(twin(x), converted(x))
        assert repr(twin) == repr(converted)
        assert list(twin.state_dict()) == list(converted.state_dict())


def test_the_device_and_a_model_that_holds_no_memory():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), third_party_layers.WithActivation2d(4)).to("meta")
    converted, _ = convert(model, "bnkit")
    assert {tensor.device.type for tensor in converted.state_dict().values()} == {"meta"}
    assert converted[2].activation == "relu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "layer_norm"}, "to='layer_norm'; expected one of bnkit, torch, sync, group_norm, instance_norm"),
        ({"process_group": 1}, "a process_group with to='bnkit'; expected one only with to='sync'"),
        ({"dimensions": 4}, "dimensions=4; expected 1, 2, 3 or None"),
        ({"num_groups": 0}, "num_groups=0; expected a whole number from 1"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        convert(nn.BatchNorm2d(4), **arguments)


def test_models_that_cannot_be_converted_are_named():
    with pytest.raises(ModelError, match="Linear holds no batch norm; expected a model with one"):
        convert(nn.Linear(2, 2))
    with pytest.raises(SettingsError, match="model is a str; expected an nn.Module"):
        convert("resnet")
    model = nn.Sequential(nn.BatchNorm2d(4))
    model.cache = model[0].weight * 2  # a tensor with a history
    with pytest.raises(ModelError, match="Sequential cannot be copied"):
        convert(model)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["bnkit", "torch"])
def test_it_compiles_in_one_graph(to):
    model = nn.Sequential(
        third_party_layers.WithActivation2d(4, nn.PReLU), third_party_layers.Frozen2d(4), nn.SyncBatchNorm(4)
    )
    converted, _ = convert(model, to)
    x = _input((3, 4, 5, 5))
    converted.eval()
    torch.testing.assert_close(torch.compile(converted, backend="eager", fullgraph=True)(x), converted(x))
