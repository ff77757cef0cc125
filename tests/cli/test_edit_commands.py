"""`bnkit add`, `remove`, `convert` and `fold`: what they print, what they write, what they refuse."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

import bnkit
from bnkit.cli.input_shapes import example_of
from bnkit.model.edit.add import add
from bnkit.model.edit.convert import convert
from bnkit.model.edit.fold import fold
from bnkit.model.edit.remove import remove
from tests.cli import user_networks
from tests.cli.cli_runner import invoke

NETS = str(Path(user_networks.__file__))
SHAPE = ("--input", "5x1x8x8")
COMMANDS = ("add", "convert", "fold", "recalibrate", "remove")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(tmp_path):
    """The weights of a network as safetensors, and the network."""
    model = user_networks.Normalised()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return model.eval()


def _example(model):
    return example_of(["5x1x8x8"], model)[0]


def test_fold_prints_the_places_and_the_error(capsys):
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE)
    assert result.status == 0
    header, row, *_, summary = result.out.splitlines()
    assert header.split() == ["site", "action", "detail"]
    assert row.split() == ["norm", "folded", "into", "the", "output", "of", "conv"]
    assert summary.startswith("1 changed, 0 kept; outputs differ by ")
    assert result.err == ""


def test_quiet_prints_one_line(capsys):
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "-q")
    assert result.out.startswith("1 changed, 0 kept; outputs differ by ")
    assert result.out.count("\n") == 1


def test_json_is_the_changes_the_error_and_the_file(capsys):
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--json", "--out", "f.safetensors")
    content = json.loads(result.out)
    assert content["changes"] == [{"site": "norm", "action": "folded", "detail": "into the output of conv"}]
    assert 0 <= content["error"] < 1e-5
    assert (content["out"], content["replaced"]) == ("f.safetensors", False)
    assert result.err == ""


def test_the_weights_of_the_folded_network_are_those_of_the_library(capsys, trained):
    result = invoke(
        capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--weights", "w.safetensors", "--out", "f.safetensors"
    )
    assert result.out.splitlines()[-1] == "written: f.safetensors"
    expected = fold(trained, _example(trained)).model
    twin = fold(user_networks.Normalised(), _example(trained)).model
    twin.load_state_dict(load_file("f.safetensors"))
    assert torch.equal(twin(_example(trained)), expected(_example(trained)))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fold", ()),
        ("add", ("--where", "after_activation")),
        ("remove", ("--preserve",)),
        ("convert", ("--to", "group_norm")),
    ],
)
def test_the_output_has_the_code_that_loads_weights_which_need_another_network(capsys, command, options):
    network = "plain" if command == "add" else "Normalised"
    done = invoke(capsys, command, f"{NETS}:{network}", *SHAPE, *options, "--out", "w.safetensors")
    *_, line, written = done.out.splitlines()
    assert written == "written: w.safetensors"
    opening, code = line.split(": ", 1)
    assert opening == "to load w.safetensors, with the network that " + f"{NETS}:{network} makes as model"
    model = getattr(user_networks, network)()
    loaded = eval(code, {"bnkit": bnkit, "safetensors": safetensors, "model": model, "example_inputs": _example(model)})  # noqa: S307
    assert str(loaded) == "<All keys matched successfully>"


def test_weights_that_load_into_the_network_as_it_is_need_no_code(capsys):
    done = invoke(capsys, "convert", f"{NETS}:Normalised", "--to", "bnkit", "--out", "w.safetensors")
    assert done.status == 0 and "to load" not in done.out


def test_fold_says_that_the_running_statistics_are_not_those_of_the_data(capsys):
    said = " ".join(invoke(capsys, "fold", f"{NETS}:Normalised", "--data", f"{NETS}:data").out.split())
    assert "warning: fold uses the running statistics, and the running statistics do not match the data" in said
    assert f"first: bnkit recalibrate {NETS}:Normalised --data {NETS}:data --out NEW" in said
    content = json.loads(invoke(capsys, "fold", f"{NETS}:Normalised", "--data", f"{NETS}:data", "--json").out)
    assert content["warning"].startswith("fold uses the running statistics, and ")
    assert "warning" not in invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE).out


@pytest.mark.parametrize("command", [*COMMANDS, "check"])
def test_weights_of_a_checkpoint_with_a_prefix(capsys, tmp_path, trained, command):
    state = {f"model._orig_mod.{key}": tensor for key, tensor in trained.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, "last.ckpt")
    example = ("--data", f"{NETS}:data") if command == "recalibrate" else SHAPE
    loaded, plain = (
        invoke(capsys, command, f"{NETS}:Normalised", *example, "--weights", file)
        for file in ("last.ckpt", "w.safetensors")
    )
    found = "weights: last.ckpt: the state_dict under 'state_dict', names without the prefix 'model._orig_mod.'\n"
    assert loaded.err == found + plain.err
    assert (loaded.status, loaded.out) == (plain.status, plain.out)


def test_what_is_written_has_the_names_of_the_network(capsys, trained):
    torch.save({f"module.{key}": tensor for key, tensor in trained.state_dict().items()}, "ddp.pt")
    options = ("--weights", "ddp.pt", "--out", "c.safetensors")
    result = invoke(capsys, "convert", f"{NETS}:Normalised", *options)
    assert "written: c.safetensors, the state_dict alone, under the network's own names" in result.out
    assert load_file("c.safetensors").keys() == trained.state_dict().keys()
    content = json.loads(invoke(capsys, "convert", f"{NETS}:Normalised", *options, "--json").out)
    assert content["weights"] == "ddp.pt: names without the prefix 'module.'"


@pytest.mark.parametrize("options", [(), ("--preserve",)])
def test_add_and_what_it_wrote_loads_into_the_network_that_the_library_makes(capsys, options):
    model = user_networks.plain()
    torch.save(model.state_dict(), "w.pt")
    result = invoke(capsys, "add", f"{NETS}:plain", *SHAPE, "--weights", "w.pt", "--out", "a.safetensors", *options)
    assert result.status == 0
    assert "BatchNorm2d(4) before relu, replacing the bias" in result.out
    assert ("outputs differ by" in result.out) == bool(options)
    added = add(user_networks.plain(), _example(model)).model.eval()
    added.load_state_dict(load_file("a.safetensors"))
    if options:
        assert torch.allclose(added(_example(model)), model(_example(model)), atol=1e-6)
    assert torch.equal(added[0].weight, model[0].weight)


def test_insertion_points_by_name(capsys):
    result = invoke(capsys, "add", f"{NETS}:plain", *SHAPE, "--where", "after_pooling", "--json")
    assert json.loads(result.out)["changes"][0]["detail"] == "BatchNorm2d(4) after maxpool2d (2)"


@pytest.mark.parametrize("preserve", [False, True])
def test_remove(capsys, trained, preserve):
    options = ("--preserve",) if preserve else ()
    result = invoke(
        capsys, "remove", f"{NETS}:Normalised", *SHAPE, "--weights", "w.safetensors", "--out", "r.safetensors", *options
    )
    assert result.status == 0
    twin = remove(user_networks.Normalised(), _example(trained)).model.eval()
    twin.load_state_dict(load_file("r.safetensors"))
    same = torch.allclose(twin(_example(trained)), trained(_example(trained)), atol=1e-5)
    assert same == preserve


def test_convert_needs_no_example(capsys, trained):
    result = invoke(
        capsys, "convert", f"{NETS}:Normalised", "--to", "torch", "--weights", "w.safetensors", "--out", "c.safetensors"
    )
    assert result.status == 0
    assert "norm  kept    is torch.nn.BatchNorm2d already" in result.out
    assert load_file("c.safetensors").keys() == trained.state_dict().keys()
    content = json.loads(invoke(capsys, "convert", f"{NETS}:Normalised", "--to", "group_norm", "--json").out)
    assert content["changes"][0]["action"] == "converted"
    assert content["error"] is None
    assert convert(trained, "group_norm").changes[0].detail == content["changes"][0]["detail"]


def test_include_and_exclude(capsys):
    result = invoke(capsys, "convert", f"{NETS}:Normalised", "--exclude", "no*", "--json")
    assert json.loads(result.out)["changes"][0]["detail"] == "left out by include or exclude"
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--include", "nothing.*")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "no place matches 'nothing.*'" in result.err


def test_several_inputs_integers_among_them(capsys):
    result = invoke(capsys, "fold", f"{NETS}:Tokens", "--input", "3x7:int64", "--input", "3x4")
    assert (result.status, result.err) == (0, "")
    result = invoke(capsys, "fold", f"{NETS}:Tokens", "--input", "scale=3x4", "--input", "ids=3x7:int64")
    assert (result.status, result.err) == (0, "")


def test_an_example_from_data(capsys):
    result = invoke(capsys, "fold", f"{NETS}:Normalised", "--data", f"{NETS}:data", "-q")
    assert (result.status, result.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_an_exported_program_computes_what_the_network_does_for_other_batches_too(capsys, trained, command):
    example = ("--data", f"{NETS}:data") if command == "recalibrate" else SHAPE
    result = invoke(
        capsys, command, f"{NETS}:{'plain' if command == 'add' else 'Normalised'}", *example, "--out", "x.pt2"
    )
    assert (result.status, result.err) == (0, "")
    program = torch.export.load("x.pt2").module()
    assert program(torch.ones(9, 1, 8, 8)).shape == (9, 3)
    if command == "fold":
        assert not any("batch_norm" in str(node.target) for node in torch.export.load("x.pt2").graph.nodes)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
def test_onnx_without_batch_normalization(capsys):
    import onnx
    from onnx.reference import ReferenceEvaluator

    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--out", "x.onnx")
    assert (result.status, result.err) == (0, "")
    model = onnx.load("x.onnx")
    onnx.checker.check_model(model)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    (scores,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: torch.ones(7, 1, 8, 8).numpy()})
    assert scores.shape == (7, 3)


def test_onnx_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("bnkit.model.save.find_spec", lambda name: None)
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--out", "x.onnx")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "x.onnx needs onnx and onnxscript, which are not installed; pip install 'bnkit[onnx]'" in result.err


def test_a_file_that_is_there_is_replaced_and_the_output_says_so(capsys, tmp_path):
    (tmp_path / "f.safetensors").write_text("before")
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "-q", "--out", "f.safetensors")
    assert result.out.splitlines()[-1] == "written: f.safetensors, replacing the existing file"
    assert "head.weight" in load_file("f.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gone.py:f", *SHAPE], ["gone.py does not exist"]),
        (["no.such.module:f", *SHAPE], ["No module named 'no'"]),
        (["nonsense", *SHAPE], ["names no factory", "path/to/file.py:name"]),
        (["nets.py:absent", *SHAPE], ["has no 'absent'", "Normalised"]),
        (["syntax.py:f", *SHAPE], ["syntax.py", "SyntaxError"]),
        (["ends.py:f", *SHAPE], ["raised SystemExit: 3"]),
        (["nets.py:raises", *SHAPE], ["raised OSError: no such weights", "nn.Module"]),
        (["nets.py:ends", *SHAPE], ["raised SystemExit: 7", "nn.Module"]),
        (["nets.py:number", *SHAPE], ["returned a int", "nn.Module"]),
        (["nets.py:SIZE", *SHAPE], ["is a int", "factory"]),
        (["nets.py:Normalised"], ["none was given", "--input 64x3x32x32"]),
        (["nets.py:Normalised", "--input", "5x1x8"], ["raised RuntimeError on the example ((5, 1, 8) on cpu)"]),
        (["nets.py:Normalised", "--input", "5,1,8,8"], ["--input 5,1,8,8", "64x3x32x32"]),
        (["nets.py:Normalised", "--input", ""], ["--input is empty; expected a value"]),
        (["nets.py:Normalised", "--input", "0x1x8x8"], ["sizes from 1"]),
        (["nets.py:Normalised", "--input", f"{'9' * 5000}x1"], ["1,073,741,824 values"]),
        (["nets.py:Normalised", "--input", "2x1x8x8:float33"], ["float33", "bfloat16"]),
        (["nets.py:Normalised", "--input", "x=2x1x8x8", "--input", "2"], ["a different name for each input"]),
        (["nets.py:Normalised", *SHAPE, "--data", "digits"], ["--input 5x1x8x8 with --data digits", "one of the two"]),
        (["nets.py:Normalised", "--data", "imagenet"], ["unknown data set 'imagenet'"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "gone.pt"], ["gone.pt is not there"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "plain.pt"], ["plain.pt does not fit Normalised", "lacks conv.weight", "also has 0.weight"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "shape.pt"], ["does not fit Normalised: size mismatch for conv.weight"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "list.pt"], ["holds a list that is not a state_dict"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "pickled.pt"], ["pickled.pt cannot be read", "tensors alone"]),
        (["nets.py:Normalised", *SHAPE, "--out", "x.pt"], ["x.pt ends in '.pt'", ".safetensors"]),
        (["nets.py:Normalised", *SHAPE, "--out", "x"], ["x has no ending"]),
        (["nets.py:Normalised", *SHAPE, "--out", "no/folder/x.onnx"], ["there is no folder no/folder"]),
        (["nets.py:Normalised", *SHAPE, "--out", "folder.pt2"], ["it is a folder"]),
        (["nets.py:Normalised", *SHAPE, "--weights", "w.safetensors", "--out", "./w.safetensors"], ["is what the model is read from"]),
    ],
    ids=lambda value: " ".join(value)[:70] if isinstance(value, list) else None,
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_do(capsys, tmp_path, trained, arguments, expected):
    (tmp_path / "nets.py").write_text(Path(NETS).read_text())
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "folder.pt2").mkdir()
    torch.save(user_networks.plain().state_dict(), "plain.pt")
    torch.save({**trained.state_dict(), "conv.weight": torch.zeros(1)}, "shape.pt")
    torch.save([1], "list.pt")
    torch.save(trained, "pickled.pt")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "__pycache__"}
    result = invoke(capsys, "fold", *arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for fragment in expected:
        assert fragment in result.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


@pytest.mark.parametrize("command", ["fold", "remove", "convert"])
def test_a_model_without_batch_norm(capsys, command):
    result = invoke(capsys, command, f"{NETS}:plain", *SHAPE)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no batch norm" in result.err


def test_an_unknown_kind_and_an_unknown_place(capsys):
    assert "--to batch; expected one of bnkit" in invoke(capsys, "convert", f"{NETS}:Normalised", "--to", "batch").err
    assert "--where before; expected" in invoke(capsys, "add", f"{NETS}:plain", *SHAPE, "--where", "before").err


def test_convert_exports_with_an_example_alone(capsys):
    result = invoke(capsys, "convert", f"{NETS}:Normalised", "--out", "x.pt2")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "needs an example of the input" in result.err


def test_a_target_may_be_a_model_in_place_of_a_factory(capsys):
    assert invoke(capsys, "add", f"{NETS}:EXISTING", *SHAPE).status == 0


def test_the_same_call_writes_the_same_file(capsys, tmp_path):
    for name in ("one", "two"):
        invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--out", f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_weights_in_a_training_script_s_dictionary(capsys, trained):
    torch.save({"state_dict": trained.state_dict(), "epoch": 3}, "w.pth")
    result = invoke(capsys, "fold", f"{NETS}:Normalised", *SHAPE, "--weights", "w.pth", "-q")
    assert (result.status, result.err) == (0, "")
