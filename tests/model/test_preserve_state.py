"""Seeing changes nothing: every rule, also where something raises."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bnkit.nn
from bnkit.checks import layer_input_statistics
from bnkit.checks.check import check
from bnkit.checks.rule_needs import Need
from bnkit.checks.rule_registry import rules
from bnkit.errors import ModelError
from bnkit.model.preserve_state import Snapshot, preserve_everything, preserve_model, temporary_buffers, temporary_hooks


class Restless(nn.Module):
    """Counts in plain Python, keeps lists, draws from all generators, writes into buffers, hooks on and off."""

    def __init__(self, raises_at=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(
            nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3), bnkit.nn.BatchNorm2d(4, activation="relu")
        )
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(1))
        self.calls = 0
        self.history = []
        self.raises_at = raises_at
        self.body[0].eval()

    def forward(self, x):
        self.calls += 1
        self.history.append(float(x.sum()))
        self.seen += 1
        self.latest = x
        self.register_forward_hook(lambda *_: None)
        random.random(), np.random.rand()
        if self.raises_at is not None and self.calls >= self.raises_at:
            raise ArithmeticError("enough")
        x = self.body(self.norm(self.conv(x)) + torch.rand(1))
        return self.head(self.spectral(x.mean((2, 3))))


def _state(model):
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "learns": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "classes": [type(module) for module in model.modules()],
        "hooks": [{key: dict(value) for key, value in vars(m).items() if "hooks" in key and isinstance(value, dict)} for m in model.modules()],
        "plain": (model.calls, list(model.history), hasattr(model, "latest")),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    }  # fmt: skip


def _assert_equal(before, after):
    for key in ("tensors", "gradients"):
        one, other = before.pop(key), after.pop(key)
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert (tensor is None) == (other[name] is None), name
            # bit by bit: NaN too
            if tensor is not None:
                assert torch.equal(tensor.reshape(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8)), (
                    name
                )
    assert before == after


def _model(raises_at=None):
    model = Restless()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    model.norm.running_mean[0] = float("nan")
    model.conv.weight.requires_grad_(False)
    model.calls, model.raises_at = 0, raises_at
    return model


@pytest.mark.parametrize("raises_at", [None, 2, *(pytest.param(call, marks=pytest.mark.slow) for call in (1, 3, 4))])
@pytest.mark.parametrize(
    ("rule", "least"),
    [
        *(pytest.param(rule, layer_input_statistics._LONG, id=rule.code) for rule in rules()),
        *(pytest.param(rule, 0, id=f"{rule.code}-by-the-loops") for rule in rules() if Need.DATA in rule.needs),
    ],
)
def test_everything_is_bit_by_bit_what_it_was(monkeypatch, rule, least, raises_at):
    monkeypatch.setattr(layer_input_statistics, "_LONG", least)
    model = _model(raises_at)
    averaged = torch.optim.swa_utils.AveragedModel(_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        TensorDataset(torch.randn(9, 3, 8, 8), torch.zeros(9, dtype=torch.int64)), 4, shuffle=True, generator=generator
    )
    before, drawn, averages = _state(model), generator.get_state(), _state(averaged.module)
    try:
        check(model, loader, optimizer, loader=loader, ema=averaged, accumulation=2, select=rule.code)
    except ModelError:
        assert raises_at is not None
    _assert_equal(before, _state(model))
    _assert_equal(averages, _state(averaged.module))
    assert torch.equal(generator.get_state(), drawn)


def test_a_snapshot_gives_back_what_was_rebuilt():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weight, norm = model[0].weight, model[1]
    content = weight.detach().clone()
    with pytest.raises(ZeroDivisionError), preserve_everything(model):
        model[0].weight = nn.Parameter(torch.zeros(2, 2))
        weight.data.zero_()
        model[1] = nn.Identity()
        norm.running_mean.add_(1)
        norm.__class__ = bnkit.nn.BatchNorm1d
        norm.register_buffer("more", torch.ones(1))
        raise ZeroDivisionError
    assert model[0].weight is weight and torch.equal(weight, content)
    assert model[1] is norm and type(norm) is nn.BatchNorm1d
    assert list(norm._buffers) == ["running_mean", "running_var", "num_batches_tracked"]
    assert torch.equal(norm.running_mean, torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_zero_keeps_its_sign_and_a_nan_its_bits(dtype):
    model = nn.Module()
    model.register_buffer("zeros", torch.tensor([-0.0, 0.0, 1.0], dtype=dtype))
    model.register_buffer("nans", torch.full((3,), float("nan"), dtype=dtype))
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[model.nans.element_size()]
    model.nans.view(kind)[1] += 1  # another NaN
    before, versions = [b.view(kind).clone() for b in model.buffers()], [b._version for b in model.buffers()]
    snapshot = Snapshot(model)
    snapshot.restore()
    assert [b._version for b in model.buffers()] == versions  # nothing was written
    model.zeros.abs_()
    model.nans.data.fill_(float("nan"))
    assert not any(torch.equal(b.view(kind), content) for b, content in zip(model.buffers(), before, strict=True))
    snapshot.restore()
    assert all(torch.equal(b.view(kind), content) for b, content in zip(model.buffers(), before, strict=True))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.tensor(3), id="a number"),
        pytest.param(torch.tensor([True, False]), id="bool"),
        pytest.param(torch.tensor([1 + 2j]), id="complex"),
        pytest.param(torch.ones(4, 6)[:, ::2], id="with gaps"),
        pytest.param(torch.ones(0, 3), id="empty"),
        pytest.param(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), id="channels last"),
    ],
)
def test_tensors_of_every_kind_are_given_back(tensor):
    model = nn.Module()
    model.register_buffer("kept", tensor.clone(memory_format=torch.preserve_format))
    snapshot = Snapshot(model)
    model.kept.zero_()
    snapshot.restore()
    assert torch.equal(model.kept, tensor)


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_a_run_in_evaluation_leaves_modes_buffers_and_all_generators(raises):
    model = Restless(raises_at=1 if raises else None).train()
    buffers = {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    random_state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    try:
        with preserve_model(model):
            model.eval()
            model._buffers["seen"] = torch.ones(3)
            model(torch.randn(2, 3, 8, 8))
    except ArithmeticError:
        assert raises
    assert [module.training for module in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert id(buffer) == buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == random_state[:2]
    assert torch.equal(torch.get_rng_state(), random_state[2])


def test_temporary_buffers_give_back_what_the_layers_are_left_with_and_no_others():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    with pytest.raises(ArithmeticError), temporary_buffers(model, {"0": model[0]}):
        model[0].momentum = None
        for layer in model.eval():
            layer.running_mean.fill_(1.0)
        raise ArithmeticError
    assert model[0].momentum == 0.1
    assert [layer.running_mean.tolist() for layer in model] == [[0.0, 0.0], [1.0, 1.0]]
    assert all(module.training for module in model.modules())


def test_hooks_that_were_registered_are_removed_though_another_could_not_be():
    model, calls = nn.Linear(1, 1), []

    def hooks():
        yield model.register_forward_pre_hook(lambda *_: calls.append(1))
        raise ArithmeticError

    with pytest.raises(ArithmeticError), temporary_hooks(hooks()):
        pass
    model(torch.zeros(1))
    assert calls == []
