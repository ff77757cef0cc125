"""The line that made a module is that of the user's call, however the network is put together."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import bnkit
from bnkit.import_user_function import load_factory
from bnkit.model.inspect.construction_lines import line_of, record_construction

# The line that ends in "# NAME" is the one that made NAME.
SOURCE = """
import copy

from torch import nn


def helper(channels):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3),
        nn.BatchNorm2d(channels),  # helper
    )


class OwnNorm(nn.BatchNorm2d):
    def __init__(self, channels):
        self.prepare(channels)

    def prepare(self, channels):
        super().__init__(channels)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)  # attribute
        self.own = OwnNorm(4)  # subclass
        layers = []
        for _ in range(2):
            layers.append(nn.BatchNorm2d(4))  # loop
        self.loop = nn.Sequential(*layers)
        self.several = nn.Sequential(
            nn.ReLU(),
            nn.Sequential(
                nn.BatchNorm2d(4),  # nested
            ),
        )
        self.comprehension = nn.ModuleList([
            nn.BatchNorm2d(4)  # comprehension
            for _ in range(2)
        ])
        self.helped = helper(4)
        block = helper(4)
        self.copies = nn.ModuleList([copy.deepcopy(block) for _ in range(2)])
        self.library = nn.TransformerEncoderLayer(4, 2)  # library
        self.lazy = nn.LazyBatchNorm2d()  # lazy


def make():
    return Net()  # model
"""
LINES = {line.rpartition("# ")[2]: number for number, line in enumerate(SOURCE.splitlines(), 1) if "  # " in line}


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(SOURCE)
    make = load_factory("nets.py:make").value
    with record_construction():
        return make()


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("norm", "attribute"), ("own", "subclass"), ("loop.0", "loop"), ("loop.1", "loop"), ("several.1.0", "nested"),
        ("comprehension.1", "comprehension"), ("helped.1", "helper"), ("copies.1.1", "helper"), ("library", "library"),
        ("library.norm1", "library"), ("library.self_attn.out_proj", "library"), ("lazy", "lazy"), ("", "model"),
    ],
)  # fmt: skip
def test_a_layer_has_the_line_of_the_user_that_made_it(model, name, mark):
    assert line_of(model, name) == ("nets.py", LINES[mark])


def test_a_copy_of_the_model_knows_its_lines(model):
    del model.lazy  # which cannot be copied
    assert line_of(copy.deepcopy(model), "loop.1") == ("nets.py", LINES["loop"])


def test_a_file_elsewhere_is_named_in_full(model, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert line_of(model, "norm") == ((tmp_path / "nets.py").as_posix().removeprefix("/"), LINES["attribute"])
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert str(line_of(model, "norm")) == f"{tmp_path}/nets.py:{LINES['attribute']}"


def test_a_module_without_a_line_has_that_of_the_one_around_it(model):
    model.loop.append(nn.BatchNorm2d(4))  # made outside of the recording
    assert line_of(model, "loop.2") == line_of(model, "loop") == ("nets.py", LINES["loop"] + 1)


def test_nothing_is_known_of_what_was_made_before():
    assert line_of(nn.Sequential(nn.BatchNorm2d(4)), "0") is None
    namespace = {"nn": nn}
    exec("def make():\n    return nn.BatchNorm2d(4)", namespace)  # noqa: S102
    with record_construction():
        model = namespace["make"]()
    assert line_of(model, "")[0].endswith("test_construction_lines.py")  # the innermost file that can be opened


def test_modules_are_made_as_always():
    original = nn.Module.__init__

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            super().__init__()  # twice

        def __getattr__(self, name):
            raise RuntimeError(name)

    with pytest.raises(KeyError), record_construction():
        assert isinstance(Odd(), Odd)
        with record_construction():
            assert nn.Linear(2, 3, bias=False, dtype=torch.float64).weight.dtype == torch.float64
        raise KeyError
    assert nn.Module.__init__ is original


def test_findings_have_the_lines(model):
    (finding, *_) = bnkit.check(model.helped, example_inputs=torch.ones(2, 4, 8, 8), select="BN101")
    assert (finding.site, finding.file, finding.line) == ("0", "nets.py", LINES["helper"] - 1)
