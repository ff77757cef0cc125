"""Exported programs from files: what torch.export.save wrote is read, and nothing in a file runs as code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from bnkit.errors import ModelError
from bnkit.model.program_file import is_arithmetic, load_program

X = torch.randn(4, 2, 6, 6)


class Harm:
    """Pickled, it makes a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "whole.pt2"
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    program = export(model, (X,), dynamic_shapes=({0: Dim.AUTO, 2: Dim.AUTO},))
    torch.export.save(program, path)
    return path, program


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _changed(whole, change=None, **more):
    """A copy of the file with its program changed, and entries more or others."""
    with zipfile.ZipFile(whole[0]) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (model,) = [name for name in entries if name.endswith("models/model.json")]
    if change is not None:
        content = json.loads(entries[model])
        change(content)
        entries[model] = json.dumps(content).encode()
    top = model.partition("/")[0]
    entries |= {f"{top}/{name.replace('__', '/')}": content for name, content in more.items()}
    with zipfile.ZipFile("changed.pt2", "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return Path("changed.pt2")


def test_what_was_saved_is_read(whole):
    loaded = load_program(whole[0])
    for x in (X, X[:2, :, :4]):
        assert torch.equal(loaded.module()(x), whole[1].module()(x))
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def _expression(text):
    def change(content):
        content["guards_code"] = [text]

    return change


def _size(text):
    def change(content):
        def walk(value):
            if isinstance(value, dict):
                if "expr_str" in value:
                    value["expr_str"] = text
                value = list(value.values())
            if isinstance(value, list):
                for entry in value:
                    walk(entry)

        walk(content)

    return change


def _target(text):
    def change(content):
        content["graph_module"]["graph"]["nodes"][0]["target"] = text

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_expression("__import__('os').mkdir('harmed')"), "the expression"),
        (_expression("[].__class__"), "the expression"),
        (_size("exec(chr(111))"), "the expression 'exec"),
        (_size("Symbol('__import__')"), "the expression"),
        (_size("sympify('x')"), "the expression"),
        (_target("torch.hub.load"), "the operation 'torch.hub.load'"),
        (_target("torch.ops.load_library"), "the operation"),
        (_target("_operator.call"), "the operation"),
        (_target("math.__class__"), "the operation"),
    ],
)
def test_programs_that_could_run_code_are_not_loaded(whole, change, named):
    with pytest.raises(ModelError, match=f"is not loaded: it holds {named}") as raised:
        load_program(_changed(whole, change))
    assert "which could run as code" in str(raised.value) and not Path("harmed").exists()


def test_what_is_pickled_is_not_unpickled(whole):
    harm = io.BytesIO()
    torch.save(Harm(), harm)
    for name in ("data__weights__weight_0", "data__sample_inputs__model.pt"):
        with pytest.raises(ModelError, match="changed.pt2 cannot be read|is not loaded"):
            load_program(_changed(whole, **{name: harm.getvalue()})).module()(X)
    config = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    for entries in ({"data__constants__opaque_obj_0": pickle.dumps(Harm())}, {"data__constants__model_constants_config.json": json.dumps(config).encode()}):  # fmt: skip
        with pytest.raises(ModelError, match="it holds opaque_obj_0, which is not a tensor"):
            load_program(_changed(whole, **entries))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", None])
def test_other_files_are_told_in_a_line(whole, content):
    Path("x.pt2").write_bytes(whole[0].read_bytes()[:4000] if content is None else content)
    with pytest.raises(ModelError, match="x.pt2 cannot be read") as raised:
        load_program("x.pt2")
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="y.pt2 is not there"):
        load_program("y.pt2")


def test_an_archive_of_something_else(whole):
    torch.save({"w": torch.ones(2)}, "w.pt2")
    with pytest.raises(ModelError, match="it holds not an archive of a program"):
        load_program("w.pt2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Symbol('s31', positive=True, integer=True)", True),
        ("Mul(Integer(6), Max(Integer(1), Add(Symbol('s16', positive=True, integer=True), Integer(-2))))", True),
        ("FloorDiv(Symbol('s0'), Integer(2))", True),
        ("((-2) + L['input'].size()[2]) != 1 and L['a']['b'].size()[0] % 2 == 0", True),
        ("eval('x')", False),
        ("Integer('x y')", False),
        ("(lambda: 1)()", False),
        ("[x for x in ()]", False),
        ("L.__class__", False),
        ("s0 := 1", False),
        ("(" * 300, False),
    ],
)
def test_arithmetic_is_told_from_code(text, expected):
    assert is_arithmetic(text) == expected
