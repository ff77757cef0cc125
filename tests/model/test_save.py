"""Weights from files, and changed models into files."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bnkit.errors import ModelError, RecordError, SettingsError
from bnkit.model import save as saving
from bnkit.model.edit.add import add
from bnkit.model.save import save
from bnkit.model.weight_files import load_weights
from tests.model import networks


@pytest.fixture
def model():
    return networks.built(networks.PlainCnn)


def _state(module):
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def test_weights_come_back_and_the_model_stays_as_it_was(tmp_path, model):
    added = add(model, networks.example(model)).model
    before, modes = _state(added), [module.training for module in added.modules()]
    assert save(added, tmp_path / "a.safetensors") is False
    assert save(added, tmp_path / "a.safetensors") is True
    other = add(networks.built(networks.PlainCnn, seed=1), networks.example(model)).model
    load_weights(other, tmp_path / "a.safetensors")
    assert all(torch.equal(before[key], tensor) for key, tensor in other.state_dict().items())
    assert [module.training for module in added.modules()] == modes
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_weights_from_before_batch_norm_was_added_load_too(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "w.pt")
    added = add(networks.built(networks.PlainCnn, seed=1), networks.example(model)).model
    load_weights(added, tmp_path / "w.pt")
    assert torch.equal(added.conv.weight, model.conv.weight)


def test_tied_weights(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    save(tied, tmp_path / "t.safetensors")
    assert load_file(tmp_path / "t.safetensors").keys() == tied.state_dict().keys()


@pytest.mark.slow
def test_an_exported_program_evaluates_and_the_model_stays_as_it_was(tmp_path, model):
    added = add(model, networks.example(model)).model.train()
    before, seed = _state(added), torch.random.get_rng_state()
    save(added, tmp_path / "x.pt2", networks.example(model))
    assert added.training
    assert torch.equal(seed, torch.random.get_rng_state())
    assert all(torch.equal(before[key], tensor) for key, tensor in added.state_dict().items())
    inputs = torch.randn(7, 3, 8, 8)
    program = torch.export.load(tmp_path / "x.pt2").module()
    assert torch.allclose(program(inputs), added.eval()(inputs), atol=1e-6)


class _OfOneSize(nn.Module):
    def forward(self, x):
        return x.view(5, -1) if x.shape[0] == 5 else x.sum(tuple(range(torch.randint(1, 2, ()).item())))


@pytest.mark.slow
def test_a_model_of_one_batch_size_keeps_it(tmp_path):
    save(_OfOneSize(), tmp_path / "x.pt2", torch.ones(5, 3))
    assert torch.export.load(tmp_path / "x.pt2").module()(torch.ones(5, 3)).shape == (5, 3)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_large_weights_stand_beside_the_onnx_file(tmp_path, model, monkeypatch):
    import onnx

    monkeypatch.setattr(saving, "_MOST_IN_ONNX", 1000)
    save(model, tmp_path / "x.onnx", networks.example(model))
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", "x.onnx.data"}
    onnx.checker.check_model(str(tmp_path / "x.onnx"))


def test_a_model_that_cannot_be_exported(tmp_path):
    structured = networks.built(networks.Structured)
    with pytest.raises(
        ModelError, match="Structured cannot be exported: RuntimeError: .*; expected a model that torch"
    ) as caught:
        save(structured, tmp_path / "x.pt2", networks.example(structured))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_colours_of_the_exporter_stay_out_of_the_message(tmp_path, model, monkeypatch):
    def coloured(model, example):
        raise RuntimeError("\x1b[96mno such\x1b[0m operator")

    monkeypatch.setattr(saving, "_program", coloured)
    with pytest.raises(ModelError, match="PlainCnn cannot be exported: RuntimeError: no such operator; expected"):
        save(model, tmp_path / "x.pt2", networks.example(model))


class _Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize("unfit", [lambda: nn.LazyLinear(3), lambda: _Extra(2, 2)])
def test_weights_that_are_no_tensors(tmp_path, unfit):
    with pytest.raises(ModelError, match="cannot be written as safetensors"):
        save(unfit(), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("x.bin", SettingsError, "ends in '.bin'; expected .safetensors"),
        ("x.pt2", SettingsError, "needs an example of the input"),
        ("absent/x.safetensors", RecordError, "there is no folder"),
        ("x" * 300 + ".safetensors", RecordError, "cannot be written"),
    ],
)
def test_where_nothing_can_be_written(tmp_path, model, name, error, message):
    with pytest.raises(error, match=message):
        save(model, tmp_path / name)


def test_weights_of_another_network(tmp_path, model):
    save(nn.Linear(2, 2), tmp_path / "x.safetensors")
    with pytest.raises(
        ModelError, match=r"does not fit PlainCnn: it lacks conv.weight, conv.bias, .* and \d+ more and it also has"
    ):
        load_weights(model, tmp_path / "x.safetensors")
