"""What a verb did to the model, and that none writes one that became worse unless it is told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bnkit.model.change_list import Change, Changed, Changes
from tests.cli import image_data
from tests.cli.cli_runner import invoke

HERE = str(Path(image_data.__file__))
OLD = b"what was there before"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _accuracy(model):
    inputs, targets = image_data.scaled()[1]
    with torch.no_grad():
        return (model.eval()(inputs).argmax(1) == targets).double().mean().item()


RUINOUS = {
    "recalibrate": ("recalibrate", f"{HERE}:trained", "--data", f"{HERE}:in_noise"),
    "check": ("check", f"{HERE}:with_one_never_updated", "--data", f"{HERE}:in_noise", "--select", "BN202", "--fix"),
    "remove": ("remove", f"{HERE}:trained", "--data", f"{HERE}:scaled"),
    "convert": ("convert", f"{HERE}:trained", "--data", f"{HERE}:scaled", "--to", "group_norm"),
}


@pytest.mark.parametrize("arguments", RUINOUS.values(), ids=RUINOUS)
def test_a_model_that_became_worse_is_not_written(capsys, tmp_path, arguments):
    out = tmp_path / "x.safetensors"
    out.write_bytes(OLD)
    result = invoke(capsys, *arguments, "--out", str(out))
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    data = arguments[3]
    assert f"is worse than before on the test part of {data}: accuracy 1.000 -> 0." in result.err
    assert "cross-entropy" in result.err and "(120 examples)" in result.err
    assert "nothing was written; expected no loss: " in result.err and f"--force writes {out} anyway" in result.err
    assert ("--preserve keeps the outputs" in result.err) == (arguments[0] == "remove")
    assert out.read_bytes() == OLD and [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("arguments", RUINOUS.values(), ids=RUINOUS)
def test_it_is_written_by_force_and_said_to_be_worse(capsys, tmp_path, arguments):
    result = invoke(capsys, *arguments, "--out", "x.safetensors", "--force")
    assert result.status == (1 if arguments[0] == "check" else 0), result
    (line,) = [line for line in result.out.splitlines() if line.startswith("on the test part of ")]
    assert "accuracy 1.000 -> 0." in line and line.endswith("(worse than before)")
    assert load_file("x.safetensors")
    if arguments[0] == "check":
        assert result.out.splitlines()[-1].endswith(", but it is worse than before")


def test_without_a_file_the_figures_are_told_alone(capsys, tmp_path):
    result = invoke(capsys, *RUINOUS["recalibrate"])
    assert result.status == 0 and "(worse than before)" in result.out
    effect = json.loads(invoke(capsys, *RUINOUS["recalibrate"], "--json").out)["effect"]
    assert effect["is_loss"] and effect["is_worse"] and effect["accuracy_before"] == 1.0
    assert list(tmp_path.iterdir()) == []


def test_the_figures_are_those_of_the_file(capsys):
    invoke(capsys, *RUINOUS["recalibrate"], "--out", "x.safetensors", "--force")
    effect = json.loads(invoke(capsys, *RUINOUS["recalibrate"], "--json").out)["effect"]
    model = image_data.trained()
    assert _accuracy(model) == pytest.approx(effect["accuracy_before"])
    model.load_state_dict(load_file("x.safetensors"))
    assert _accuracy(model) == pytest.approx(effect["accuracy_after"])
    loss = nn.functional.cross_entropy(model(image_data.scaled()[1][0]), image_data.scaled()[1][1]).item()
    assert loss == pytest.approx(effect["loss_after"], rel=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("recalibrate", f"{HERE}:trained", "--data", f"{HERE}:scaled"),
        ("recalibrate", f"{HERE}:untrained", "--data", f"{HERE}:scaled"),
        ("add", f"{HERE}:trained_without", "--data", f"{HERE}:scaled", "--preserve"),
        ("add", f"{HERE}:untrained_without", "--data", f"{HERE}:scaled"),
        ("remove", f"{HERE}:trained", "--data", f"{HERE}:scaled", "--preserve"),
        ("remove", f"{HERE}:untrained", "--data", f"{HERE}:scaled"),
        ("fold", f"{HERE}:trained", "--data", f"{HERE}:scaled"),
        ("convert", f"{HERE}:trained", "--data", f"{HERE}:scaled"),
        ("convert", f"{HERE}:trained", "--to", "sync", "--data", f"{HERE}:scaled"),
        ("convert", f"{HERE}:untrained", "--to", "group_norm", "--data", f"{HERE}:scaled"),
        ("fold", f"{HERE}:trained", "--data", f"{HERE}:without_labels_that_fit"),
        ("fold", f"{HERE}:predicting", "--data", f"{HERE}:regression"),
    ],
    ids=lambda arguments: " ".join(Path(part).name for part in arguments),
)
def test_what_is_no_worse_is_written(capsys, arguments):
    result = invoke(capsys, *arguments, "--out", "x.safetensors")
    assert (result.status, result.err) == (0, "")
    assert f"on the test part of {arguments[arguments.index('--data') + 1]}" in " ".join(result.out.split())
    assert load_file("x.safetensors") and "worse" not in result.out


def test_values_are_judged_by_their_loss(capsys):
    result = invoke(
        capsys, "recalibrate", f"{HERE}:predicting", "--data", f"{HERE}:regression", "--out", "x.safetensors"
    )
    assert result.status == 2 and "mean squared error " in result.err and "accuracy" not in result.err
    result = invoke(capsys, "recalibrate", f"{HERE}:predicting", "--data", f"{HERE}:regression", "--json")
    model, (inputs, targets) = image_data.predicting(), image_data.regression()[1]
    effect = json.loads(result.out)["effect"]
    assert effect["loss_before"] == pytest.approx(0.0, abs=1e-9) and effect["loss"] == "mean squared error"
    inside = model[1](image_data.regression()[0][0].flatten(1))
    expected = (model[1](inputs.flatten(1)) - inside.mean(0)) / (inside.var(0) + 1e-5).sqrt()
    assert effect["loss_after"] == pytest.approx((expected - targets).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", f"{HERE}:trained_without"),
        ("remove", f"{HERE}:trained"),
        ("convert", f"{HERE}:trained", "--to", "group_norm"),
    ],
)
def test_on_an_example_alone_it_is_said_how_far_the_output_changed(capsys, arguments):
    result = invoke(capsys, *arguments, "--input", "6x1x4x4", "--out", "x.safetensors", "-q")
    assert result.status == 0
    first, summary, written = result.out.splitlines()
    assert first.startswith("on random inputs: the output changed by ") and first.endswith(
        " of its size (root mean square)"
    )
    assert (written, "changed" in summary) == ("written: x.safetensors", True)


def _spoiled(model):
    model[-1].weight.data[0, 0] = torch.nan


def _shifted(model):
    model[-1].bias.data[0] += 5


@pytest.mark.parametrize("options", [("--data", f"{HERE}:without_labels_that_fit"), ("--input", "6x1x4x4")])
@pytest.mark.parametrize(
    ("spoil", "expected"), [(_spoiled, "became inf or NaN"), (_shifted, "computes something else")]
)
def test_a_verb_that_is_meant_to_keep_the_outputs_and_does_not(capsys, monkeypatch, tmp_path, options, spoil, expected):
    def wrong(model, example, **keywords):
        spoil(model)
        return Changed(model, Changes([Change("2", "folded", "wrong")], 0.0))

    def apart(model, *arguments, **keywords):
        import copy

        return wrong(copy.deepcopy(model), *arguments, **keywords)

    monkeypatch.setattr("bnkit.model.edit.fold.fold", apart)
    result = invoke(capsys, "fold", f"{HERE}:trained", *options, "--out", "x.safetensors")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert expected in result.err and "nothing was written" in result.err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_copied_is_made_once_more_by_its_factory(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import threading\n"
        "from tests.cli import image_data\n"
        "def make():\n"
        "    model = image_data.trained()\n"
        "    model.lock = threading.Lock()\n"
        "    return model\n"
    )
    result = invoke(capsys, "recalibrate", "mine.py:make", "--data", f"{HERE}:scaled", "--out", "x.safetensors")
    assert (result.status, result.err) == (0, "")
    assert "accuracy 1.000 -> 1.000" in result.out


def test_fixing_says_what_it_did_and_by_which_rules(capsys):
    Path("f.safetensors").write_bytes(b"earlier")
    result = invoke(
        capsys, "check", f"{HERE}:trained", "--data", f"{HERE}:scaled", "--select", "BN101", "--fix", "--out", "f.safetensors"
    )  # fmt: skip
    assert result.status == 0
    *_, effect, written, left = result.out.splitlines()
    assert effect.startswith(f"on the test part of {HERE}:scaled: accuracy 1.000 -> 1.000, cross-entropy ")
    assert written == "written: f.safetensors, replacing the existing file"
    assert left == "left after fixing: nothing found in 1 layer by the rules selected (BN101)"
