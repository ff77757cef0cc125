"""`bnkit fold` with a program of torch.export, and what the documentation of serving shows."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from bnkit.model.program_file import load_program
from tests.child_processes import run
from tests.cli.cli_runner import invoke

ROOT = Path(__file__).parents[2]
X = torch.randn(4, 2, 5, 5)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU()).eval()
    model[1].running_mean.normal_()
    torch.export.save(export(model, (X,), dynamic_shapes=({0: Dim.AUTO},)), "net.pt2")
    return model


def test_the_folded_program_is_written(capsys, model):
    result = invoke(capsys, "fold", "net.pt2", "--out", "folded.pt2")
    assert (result.status, result.err) == (0, "")
    header, row, blank, summary, written = result.out.splitlines()
    assert row.split() == ["1", "folded", "into", "the", "output", "of", "0"] and blank == ""
    assert summary.startswith("1 changed, 0 kept; outputs differ by ") and written == "written: folded.pt2"
    folded = load_program("folded.pt2").module()
    assert torch.allclose(folded(X[:2]), model(X[:2]), atol=1e-6)
    again = json.loads(invoke(capsys, "fold", "net.pt2", "--input", "3x2x5x5", "--out", "folded.pt2", "--json").out)
    assert again["changes"][0]["detail"] == "into the output of 0" and again["replaced"] is True
    quiet = invoke(capsys, "fold", "net.pt2", "--exclude", "1", "-q")
    assert quiet.out.startswith("0 changed, 1 kept") and quiet.out.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_a_program_as_onnx(capsys, model):
    import onnx

    result = invoke(capsys, "fold", "net.pt2", "--out", "folded.onnx")
    assert result.status == 0, result.err
    graph = onnx.load("folded.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.pt2", "--weights", "w.pt"), "--weights with the exported program net.pt2; expected --input or nothing, and --out"),
        (("net.pt2", "--data", "digits"), "--data with the exported program"),
        (("net.pt2", "--force"), "--force with the exported program"),
        (("net.pt2", "--out", "net.pt2"), "net.pt2 is what the model is read from"),
        (("net.pt2", "--out", "w.safetensors"), "w.safetensors with an exported program; expected .pt2 or .onnx"),
        (("net.pt2", "--input", "4x3x5x5"), "on the example ((4, 3, 5, 5) on cpu)"),
        (("net.pt2", "--include", "2"), "no place matches '2'"),
        (("none.pt2",), "none.pt2 is not there; expected a file that torch.export.save wrote"),
        (("training.pt2",), "it was exported in training mode"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line(capsys, model, arguments, message):
    if arguments[0] == "training.pt2":
        torch.export.save(export(model.train(), (X,)), "training.pt2")
    before = sorted(path.name for path in Path().iterdir())
    result = invoke(capsys, "fold", *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1) and message in result.err
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_the_documentation_shows_what_is_printed(capsys):
    pytest.importorskip("onnxruntime")
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "how-to" / "serving.md").read_text(), re.DOTALL | re.MULTILINE
    )
    network, example = (text for language, text in blocks if language == "python")
    Path("nets.py").write_text(network)
    for block in (text for language, text in blocks if not language):
        for command, shown in re.findall(r"^\$ (.*)\n((?:[^$].*\n|\n)*)", block, re.MULTILINE):
            words = shlex.split(command)
            if words[0] == "bnkit":
                printed = invoke(capsys, *words[1:]).out
            else:
                printed = run([sys.executable, *words[1:]], cwd=Path.cwd()).stdout
            assert _without_rounding(printed) == _without_rounding(shown)
    exec(compile(example, "example.py", "exec"), {})  # noqa: S102
    assert "folded  into the output of 0" in capsys.readouterr().out


def _without_rounding(text):
    return re.sub(r"differ by \S+", "differ by x", text).strip()
