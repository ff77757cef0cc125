"""What the model is given: the same data in every form, through every command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bnkit.experiments.data_for_model import data_of_run, model_data
from tests.cli import image_data
from tests.cli.cli_runner import QUICK_COMPARE, invoke
from tests.experiments import tiny_experiment

HERE = str(Path(image_data.__file__))
COMMANDS = ("recalibrate", "check", "fold", "add", "remove", "convert")


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image_data.write_npz(tmp_path / "p.npz")


@pytest.fixture
def folder(tmp_path):
    image_data.write_folder(tmp_path / "p")
    return tmp_path / "p"


def _normal(x):
    values = image_data.scaled()[0][0]
    return (x - values.mean()) / values.std(correction=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "form", "said"),
    [
        (("--data", f"{HERE}:scaled"), lambda x: x, "as its factory returns it"),
        (("--data", f"{HERE}:as_datasets"), lambda x: x, "as its factory returns it"),
        (("--data", f"{HERE}:as_bytes"), lambda x: x * 255, "as its factory returns it, uint8 as float32 without scaling"),
        (("--data", f"{HERE}:as_datasets_of_bytes"), lambda x: x * 255, "as its factory returns it, uint8 as float32 without scaling"),
        (("--data", f"{HERE}:scaled", "--inputs", "normal"), _normal, "normalised by its mean and deviation"),
        (("--data", f"{HERE}:as_datasets", "--inputs", "normal"), _normal, "normalised by its mean and deviation"),
        (("--data", f"{HERE}:as_bytes", "--inputs", "not_normal"), lambda x: x, "not normalised, bytes divided by 255"),
        (("--data", "p.npz", "--inputs", "normal"), _normal, "normalised by its mean and deviation"),
        (("--data", "p.npz", "--inputs", "not_normal"), lambda x: x, "not normalised, bytes divided by 255"),
        (("--data", "p.npz", "--inputs", "symmetric"), lambda x: 2 * x - 1, "scaled from [0, 1] to [-1, 1]"),
        (("--data", "p.npz", "--inputs", f"{HERE}:doubled"), lambda x: 2 * x, f"through {HERE}:doubled"),
        (("--data", "p", "--inputs", "normal"), _normal, "normalised by its mean and deviation"),
        (("--data", "p", "--inputs", "not_normal"), lambda x: x, "not normalised, bytes divided by 255"),
        (("--data", "p", "--inputs", f"{HERE}:doubled"), lambda x: 2 * x, f"through {HERE}:doubled"),
    ],
)  # fmt: skip
def test_the_statistics_are_those_of_what_the_model_is_given(capsys, tmp_path, folder, options, form, said):
    result = invoke(capsys, "recalibrate", f"{HERE}:trained", *options, "--out", "r.safetensors", "--force")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0] == f"given: the training part of {options[1]}, {said}"
    model = image_data.trained().eval()
    seen = model[1](form(image_data.scaled()[0][0]).flatten(1))
    written = load_file("r.safetensors")
    assert torch.allclose(written["2.running_mean"], seen.mean(0), rtol=1e-4, atol=1e-5)
    assert torch.allclose(written["2.running_var"], seen.var(0), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("data", ["digits", "p.npz", "p"])
def test_where_nothing_says_the_form_it_has_to_be_given(capsys, folder, command, data):
    said = invoke(capsys, command, f"{HERE}:trained", "--data", data)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert f"--data {data}: nothing says in which form the model is to get these inputs" in said.err
    for choice in ("--inputs normal", "not_normal", "symmetric", "file.py:function"):
        assert choice in said.err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_line_says_what_the_model_was_given(capsys, command):
    model = "trained_without" if command == "add" else "trained"
    for options in (("--data", f"{HERE}:scaled"), ("--data", "p.npz", "--inputs", "not_normal", "-q")):
        said = invoke(capsys, command, f"{HERE}:{model}", *options)
        assert said.out.startswith(f"given: the training part of {options[1]}, ")
    if command != "check":
        content = json.loads(invoke(capsys, command, f"{HERE}:{model}", *options, "--json").out)
        assert content["given"] == "the training part of p.npz, not normalised, bytes divided by 255"
        assert content["effect"]["examples"] == 120


@pytest.mark.parametrize("form", ["json", "github"])
def test_findings_for_programs_leave_it_to_standard_error(capsys, form):
    said = invoke(capsys, "check", f"{HERE}:trained", "--data", f"{HERE}:scaled", "--format", form)
    assert said.err.startswith("given: the training part of ")
    assert form == "github" or isinstance(json.loads(said.out), list)


@pytest.mark.parametrize("command", COMMANDS)
def test_lazy_layers_run_on_the_example_first(capsys, command):
    options = () if command == "recalibrate" else ("--input", "8x1x4x4")
    for given in (("--data", f"{HERE}:scaled"), options):
        if given and not (command == "add" and given[0] == "--data"):
            said = invoke(capsys, command, f"{HERE}:lazy", *given)
            assert said.status in (0, 1) and said.err == "", said
    if command not in ("check", "add"):
        said = invoke(capsys, command, f"{HERE}:lazy", "--data", f"{HERE}:scaled", "--out", "l.safetensors")
        assert said.status == 0 and load_file("l.safetensors")["4.weight"].shape == (3, 8)


def test_tokens_stay_integers(capsys):
    said = invoke(capsys, "recalibrate", f"{HERE}:OfTokens", "--data", f"{HERE}:tokens", "--out", "t.safetensors")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[0].endswith("tokens, as its factory returns it")
    said = invoke(capsys, "check", f"{HERE}:OfTokens", "--data", f"{HERE}:tokens")
    assert said.status in (0, 1) and said.err == ""


def test_a_network_that_divides_bytes_itself_gets_bytes(capsys):
    said = invoke(capsys, "recalibrate", f"{HERE}:DividingBytes", "--data", f"{HERE}:as_bytes", "--json")
    content = json.loads(said.out)
    assert content["given"].endswith("as_bytes, as its factory returns it")
    assert content["effect"]["accuracy_before"] > 0.9


def test_floating_inputs_come_in_the_dtype_of_the_model():
    data = model_data(f"{HERE}:scaled", None).matched_to(image_data.trained().double())
    inputs, targets = next(iter(data.test_batches(50)))
    assert (inputs.dtype, targets.dtype, len(inputs)) == (torch.float64, torch.int64, 50)
    assert data.example(None)[0].shape == (64, 1, 4, 4)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("normalised", "--inputs normalised; expected normal (by"),
        (f"{HERE}:absent", "has no 'absent'"),
        (f"{HERE}:HERE_IS_NOTHING", "has no"),
        (f"{HERE}:one_number", "one_number returned a int for inputs of shape (2, 1, 4, 4)"),
        (f"{HERE}:shorter", "shorter returned (1, 1, 4, 4) for inputs of shape (2, 1, 4, 4)"),
        (f"{HERE}:write_npz", "raised "),
    ],
)
def test_an_unknown_form_is_refused(capsys, inputs, expected):
    said = invoke(capsys, "recalibrate", f"{HERE}:trained", "--data", "p.npz", "--inputs", inputs)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert expected in said.err


@pytest.mark.parametrize("command", ["check", "convert"])
def test_a_form_without_data_is_a_mistake(capsys, command):
    said = invoke(capsys, command, f"{HERE}:trained", "--inputs", "normal")
    assert (said.status, said.out, said.err) == (
        2,
        "",
        "error: --inputs normal without --data; expected both, or neither\n",
    )


def test_a_run_of_tokens_brings_integers():
    from bnkit.data import Examples, Splits

    parts = Splits(
        *(Examples(*part) for part in (image_data.tokens()[0], image_data.tokens()[0], image_data.tokens()[1]))
    )
    data = data_of_run(parts, "x", "normal").matched_to(image_data.OfTokens())
    assert data.given == "the training part of x, as the run was trained on it"
    assert next(iter(data.training_batches(5)))[0].dtype == torch.int64


def test_batches_are_mixed_the_same_each_time_and_none_has_one_example():
    data = model_data(f"{HERE}:scaled", None)
    batches = data.training_batches(239)
    first, second = list(batches), list(batches)
    assert [len(targets) for _, targets in first] == [240]
    assert all(torch.equal(one, other) for one, other in zip(first[0], second[0], strict=True))
    inputs, targets = image_data.scaled()[0]
    assert not torch.equal(first[0][0], inputs)
    some = list(data.training_batches(8, count=3))
    assert [len(targets) for _, targets in some] == [8, 8, 8]
    for image, target in zip(*some[0], strict=True):
        (row,) = (inputs == image).flatten(1).all(1).nonzero()[:, 0]
        assert targets[row] == target
    assert [len(targets) for _, targets in data.training_batches(1)] == [1] * 240
    assert torch.equal(torch.cat([x for x, _ in data.test_batches(7)]), image_data.scaled()[1][0])


@pytest.mark.slow
def test_a_run_brings_its_own_preparation_for_other_data_too(capsys, tmp_path):
    invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", "-q")
    (run,) = [path for path in sorted((tmp_path / "r" / "runs").iterdir()) if _is_checked(capsys, path)][:1]
    said = invoke(capsys, "check", str(run))
    assert said.out.splitlines()[0] == (
        f"given: the training part of {tiny_experiment.__file__}:data, as the run was trained on it (normalised by its mean and deviation)"
    )
    (inputs, targets), (others, _) = tiny_experiment.data()
    arrays = {"x_train": others, "y_train": targets[: len(others)], "x_test": others, "y_test": targets[: len(others)]}
    np.savez(tmp_path / "other.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    said = invoke(capsys, "check", str(run), "--data", "other.npz")
    assert "prepared as the run's own data (normalised by its mean and deviation)" in said.out.splitlines()[0]
    data = model_data("other.npz", None, (f"{tiny_experiment.__file__}:data", "normal"))
    expected = (others - inputs.mean()) / inputs.std(correction=0)
    assert torch.allclose(data.train.inputs.flatten(1), expected.flatten(1), atol=1e-5)
    assert invoke(capsys, "check", str(run), "--inputs", "normal").err.startswith("error: --inputs normal with a run")


def _is_checked(capsys, run):
    return invoke(capsys, "check", str(run), "-q").status != 2


def test_weights_are_loaded_before_lazy_layers_run(capsys):
    model = image_data.trained()
    save_file(model.state_dict(), "w.safetensors")
    said = invoke(capsys, "check", f"{HERE}:untrained", "--weights", "w.safetensors", "--data", f"{HERE}:scaled", "-q")
    assert said.status in (0, 1) and said.err == ""
