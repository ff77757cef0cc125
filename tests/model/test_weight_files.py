"""Weights as training scripts write them: wrapped, prefixed, beside an optimizer, twice."""

from __future__ import annotations

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bnkit.errors import ModelError
from bnkit.model.untrusted_checkpoint import hyper_parameters
from bnkit.model.weight_files import load_weights


def _network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


class _Lightning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class _Attribute(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def _compiled(model):
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "none": (lambda model: model, ()),
    "DDP": (nn.DataParallel, ("module.",)),
    "Lightning": (_Lightning, ("model.",)),
    "compiled": (_compiled, ("_orig_mod.",)),
    "Lightning, compiled": (lambda model: _Lightning(_compiled(model)), ("model._orig_mod.",)),
    "compiled, DDP": (lambda model: nn.DataParallel(_compiled(model)), ("module._orig_mod.",)),
    "compiled from outside": (lambda model: _compiled(_Lightning(model)), ("_orig_mod.model.",)),
    "another attribute": (lambda model: _Attribute(backbone=model), ("backbone.",)),
    "AveragedModel": (AveragedModel, ("n_averaged", "module.")),
}
DICTIONARIES = {
    "the state_dict": (lambda state: state, ()),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, ("state_dict",)),
    "ema": (lambda state: {"ema": state}, ("ema",)),
    "in two": (lambda state: {"checkpoint": {"net": state}}, ("checkpoint", "net")),
}


@pytest.mark.parametrize("dictionary", DICTIONARIES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_weights_are_found(tmp_path, wrapper, dictionary):
    wrap, prefixes = WRAPPERS[wrapper]
    put, keys = DICTIONARIES[dictionary]
    source, target = _network(), _network()
    source[1].running_mean.fill_(0.5)
    torch.save(put(wrap(source).state_dict()), tmp_path / "w.pt")
    found = load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(tensor, target.state_dict()[key]) for key, tensor in source.state_dict().items())
    assert (found.keys, found.prefixes) == (keys, prefixes)
    if not prefixes and keys in ((), ("state_dict",)):
        assert found.line is None
    else:
        assert all(repr(part) in found.line for part in (*prefixes, *(["/".join(keys)] if keys else [])))


def test_safetensors_have_prefixes_too(tmp_path):
    source, target = _network(), _network()
    save_file(nn.DataParallel(source).state_dict(), tmp_path / "w.safetensors")
    assert load_weights(target, tmp_path / "w.safetensors").prefixes == ("module.",)
    assert torch.equal(source[0].weight, target[0].weight)


def test_a_submodule_that_was_compiled(tmp_path):
    source, target = _network(), _network()
    source[0] = _compiled(source[0])
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert load_weights(target, tmp_path / "w.pt").prefixes == ("_orig_mod.",)
    assert torch.equal(source[0].weight, target[0].weight)


@pytest.mark.parametrize("name", ["model", "module", "_orig_mod"])
def test_a_name_that_the_network_has_itself_is_no_prefix(tmp_path, name):
    source, target = _Attribute(**{name: _network()}), _Attribute(**{name: _network()})
    torch.save(source.state_dict(), tmp_path / "w.pt")
    assert load_weights(target, tmp_path / "w.pt").line is None


def test_the_state_of_an_optimizer_and_another_network_are_passed_over(tmp_path):
    source, target = _network(), _network()
    optimizer = torch.optim.Adam(source.parameters())
    source(torch.randn(2, 1, 5, 5)).sum().backward()
    optimizer.step()
    content = {"opt": optimizer.state_dict(), "discriminator": nn.Linear(2, 2).state_dict(), "g": source.state_dict()}
    torch.save(content, tmp_path / "w.pt")
    assert load_weights(target, tmp_path / "w.pt").keys == ("g",)
    assert torch.equal(source[0].weight, target[0].weight)


def _some(content):
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "messages"),
    [
        (
            _some({"model": _network().state_dict(), "ema": _network().state_dict()}),
            ["holds 2 state_dicts, 'model' and 'ema'; expected one", "weights_only=True)['model'], NEW)"],
        ),
        (
            _some(_Attribute(model=_network(), ema=_network()).state_dict()),
            ["holds the weights 2 times, under 'model.' and 'ema.'; expected once"],
        ),
        (
            _some(_Attribute(model=_network(), loss=nn.Linear(1, 1)).state_dict()),
            ["names without the prefix 'model.'", "also has loss.weight, loss.bias; expected the keys"],
        ),
        (
            _some({"state_dict": nn.DataParallel(_network()[:1]).state_dict()}),
            ["the state_dict under 'state_dict', names without the prefix 'module.'", "lacks 1.weight"],
        ),
        (_some({"epoch": 3, "log": {"loss": [1.0]}}), ["a dict that is not a state_dict; expected tensors by name"]),
        (_some({}), ["holds a dict that is not a state_dict"]),
        (
            _some(_Attribute(a=nn.Sequential(nn.Linear(2, 2)), b=nn.Sequential(nn.Linear(2, 2))).state_dict()),
            [
                "w.pt does not fit Sequential: it lacks 0.weight",
                "also has a.0.weight, a.0.bias, b.0.weight, b.0.bias",
            ],
        ),
        (_some(nn.Linear(2, 2).state_dict()), ["lacks 0.weight", "also has weight, bias"]),
        (
            _some(argparse.Namespace(lr=0.1)),
            ["cannot be read: it holds argparse.Namespace, which is code", '["state_dict"], NEW)'],
        ),
        (
            _some(_network()),
            ["cannot be read: it holds torch.nn.modules.", "which is code", "weights_only=False).state_dict(), NEW)"],
        ),
    ],
    ids=[
        "two",
        "two prefixes",
        "more",
        "less",
        "none",
        "empty",
        "names that agree by chance",
        "another",
        "code",
        "a whole model",
    ],
)
def test_what_is_refused(tmp_path, write, messages):
    write(tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_weights(_network(), tmp_path / "w.pt")
    assert all(re.search(re.escape(message), str(caught.value)) for message in messages), str(caught.value)


class _Evil:
    def __reduce__(self):
        return print, ("this was run",)


def test_objects_beside_the_weights_are_not_made(tmp_path, capsys):
    """As the hyper-parameters in a checkpoint of Lightning."""
    network = _network()
    torch.save(
        {
            "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()},
            "hyper_parameters": {"arguments": argparse.Namespace(lr=0.1), "evil": _Evil(), "width": 3},
        },
        tmp_path / "w.ckpt",
    )
    loaded = _network()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    found = load_weights(loaded, tmp_path / "w.ckpt")
    assert (found.keys, found.prefixes) == (("state_dict",), ("model.",))
    assert all(torch.equal(one, two) for one, two in zip(loaded.parameters(), network.parameters(), strict=True))
    known = hyper_parameters(tmp_path / "w.ckpt")
    assert (known["width"], known["arguments"].name) == (3, "argparse.Namespace")
    assert not hasattr(known["arguments"], "lr")
    assert known["evil"].name.endswith("print")
    assert capsys.readouterr().out == ""
