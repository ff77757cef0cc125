"""`bnkit recalibrate` as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bnkit.data.user_data import load_data
from bnkit.seeding import seeded
from tests.cli import user_networks
from tests.cli.cli_runner import invoke

NETS = str(Path(user_networks.__file__))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("options", [(), ("--sequential",), ("--batch-size", "7")])
def test_the_statistics_are_those_of_the_whole_training_part(capsys, options):
    result = invoke(
        capsys, "recalibrate", f"{NETS}:Normalised", "--data", f"{NETS}:data", "--out", "r.safetensors", *options
    )
    assert (result.status, result.err) == (0, "")
    given, header, *_, effect, summary, written = result.out.splitlines()
    assert given == f"given: the training part of {NETS}:data, as its factory returns it"
    assert header.startswith("layer")
    assert effect.startswith(f"on the test part of {NETS}:data: accuracy ")
    assert summary.startswith("1 recalibrated, 0 kept, ")
    assert written == "written: r.safetensors"
    with seeded(0, "weights"):
        model = user_networks.Normalised()
    model.load_state_dict(load_file("r.safetensors"))
    seen = model.conv(load_data(f"{NETS}:data").train.inputs)
    assert torch.allclose(model.norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.norm.running_var, seen.var((0, 2, 3), correction=1), rtol=1e-4) or torch.allclose(
        model.norm.running_var, seen.transpose(0, 1).flatten(1).var(1), rtol=1e-4
    )


def test_recalibration_as_json(capsys):
    content = json.loads(
        invoke(
            capsys, "recalibrate", f"{NETS}:Normalised", "--data", f"{NETS}:data", "--json", "--batch-size", "16"
        ).out
    )
    assert set(content) == {
        "given", "effect", "layers", "kept", "output_change", "batches", "sequential", "out", "replaced"
    }  # fmt: skip
    assert content["given"] == f"the training part of {NETS}:data, as its factory returns it"
    assert content["effect"]["examples"] == 12 and content["effect"]["where"] == f"on the test part of {NETS}:data"
    # 65 examples: the last one goes with the batch before it
    assert (content["batches"], content["layers"][0]["layer"], content["out"]) == (4, "norm", None)


def test_recalibrating_twice_changes_nothing_more(capsys):
    arguments = ("recalibrate", f"{NETS}:Normalised", "--data", f"{NETS}:data", "--json")
    invoke(capsys, *arguments, "--out", "r.safetensors")
    content = json.loads(invoke(capsys, *arguments, "--weights", "r.safetensors").out)
    assert content["layers"][0]["largest_shift"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([f"{NETS}:Normalised"], "Missing option '--data'"),
        (
            [f"{NETS}:Normalised", "--data", f"{NETS}:data", "--batch-size", "0"],
            "--batch-size 0; expected a whole number above 0",
        ),
        ([f"{NETS}:plain", "--data", f"{NETS}:data"], "has no batch norm"),
        ([f"{NETS}:Normalised", "--data", "digits", "--inputs", "normal"], "raised RuntimeError on batch 1"),
        ([f"{NETS}:Normalised", "--data", f"{NETS}:data", "--exclude", "norm"], "no batch norm to recalibrate"),
        ([f"{NETS}:Normalised", "--data", f"{NETS}:data", "--out", "x.bin"], "x.bin ends in '.bin'"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, expected):
    result = invoke(capsys, "recalibrate", *arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert expected in result.err
