"""What a command prints, and where: standard output is for results alone, and may refuse to be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.child_processes import run

pytestmark = pytest.mark.slow

# Prints at import, in a factory, in every forward and at the end, from Python, from C and from a process of its own.
_LOUD = """
import atexit, os, subprocess, sys, warnings

import torch
from torch import nn


def everywhere(where):
    print(where, "print")
    if "ONLY_PRINT" in os.environ:
        return
    sys.__stdout__.write(where + " original\\n")
    sys.stdout.buffer.write((where + " bytes\\n").encode())
    os.write(1, (where + " descriptor\\n").encode())


everywhere("import")
subprocess.run([sys.executable, "-c", "print('child')"])
atexit.register(everywhere, "exit")


def data():
    everywhere("data")
    inputs, targets = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
    return (inputs[:32], targets[:32]), (inputs[32:], targets[32:])



class Net(nn.Module):
    def __init__(self):
        super().__init__()
        everywhere("constructor")
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        everywhere("forward")
        warnings.warn("a warning")
        return self.net(x)
"""
_COMPARE = ("compare", "loud.py:Net", "--data", "loud.py:data", "--grid", "lr=0.1", "--seeds", "1", "--epochs", "1", "--batch-size", "16", "--out", "r")  # fmt: skip
_BNKIT = (sys.executable, "-m", "bnkit.cli.main")


def _more(*values):
    """Other values of a parameter that a test has been run with: a process each, in `make test-all`."""
    return (pytest.param(value, marks=pytest.mark.exhaustive) for value in values)


@pytest.fixture(autouse=True)
def _beside_a_network_that_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(_LOUD)


def _bnkit(*arguments, **options):
    return run([*_BNKIT, *arguments], **options)


@pytest.mark.parametrize(
    "arguments",
    [
        (*_COMPARE, "--json"),
        ("check", "loud.py:Net", "--input", "4x6", "--format", "json"),
        *_more(
            (*_COMPARE, "--json", "--workers", "2"),
            (*_COMPARE, "--json", "--dry-run"),
            ("fold", "loud.py:Net", "--input", "4x6", "--json"),
            ("convert", "loud.py:Net", "--to", "torch", "--json"),
        ),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_json_is_alone_on_standard_output(arguments):
    done = _bnkit(*arguments)
    assert done.returncode in (0, 1), done.stderr
    json.loads(done.stdout, parse_constant=pytest.fail)
    places = {"import", "constructor"} | ({"exit"} if "--workers" not in arguments else set())
    for where in places | ({"data", "forward"} if arguments[0] == "compare" else set()):
        for how in ("print", "original", "bytes", "descriptor"):
            assert f"{where} {how}\n" in done.stderr
    assert "child\n" in done.stderr


@pytest.mark.exhaustive
def test_of_the_processes_of_torchrun_the_first_prints_the_result_and_none_anything_else():
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run([*torchrun, "-m", "bnkit.cli.main", *_COMPARE, "--json"])
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout, parse_constant=pytest.fail)
    assert "forward print\n" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", *_more("latin-1", "utf-8")])
def test_a_sign_that_an_encoding_has_not_ends_nothing(encoding):
    """The list of data sets holds a multiplication sign, the pages of rules a minus."""
    environment = {"PYTHONIOENCODING": encoding}
    listed = run([*_BNKIT, "data", "--json"], environment=environment)
    assert (listed.returncode, listed.stderr) == (0, "")
    about = next(entry["about"] for entry in json.loads(listed.stdout) if entry["name"] == "digits")
    assert "8×8" in about
    assert run([*_BNKIT, "explain", "BN201"], environment=environment).returncode == 0


def test_the_answer_is_alone_on_standard_output():
    done = _bnkit(*_COMPARE, "-q")
    assert done.returncode == 0
    assert done.stdout.startswith("batch_norm against no_batch_norm: ")
    assert "print" not in done.stdout
    assert "UserWarning: a warning" in done.stderr


def test_a_caller_in_python_has_its_standard_output_back():
    script = "from bnkit.cli.main import main\ntry:\n    main(['data', '--json'])\nexcept SystemExit as end:\n    print('ended', end.code)"
    done = run([sys.executable, "-c", script])
    assert done.stdout.endswith("]\nended 0\n")
    assert done.stderr == ""


_LIGHT = [("--version",), ("compare", "--help"), *_more(("data", "--json"), ("explain", "BN101"))]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("arguments", _LIGHT, ids=" ".join)
def test_a_full_disk_under_standard_output_is_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        done = _bnkit(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written (No space left on device); expected ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", _LIGHT, ids=" ".join)
def test_a_reader_that_has_ended_is_no_reason_to_speak(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = _bnkit(*arguments, stdout=pipe)
    assert (done.returncode, done.stderr) == (141, "")


def _in_a_shell(command):
    return subprocess.run(
        ["sh", "-c", f"exec {' '.join(_BNKIT)} {command}"], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.skipif(os.name != "posix", reason="there is no such shell")
@pytest.mark.parametrize(
    ("command", "status", "out", "err"),
    [
        ("--version >&-", 1, "", "error: standard output cannot be written (it is closed)"),
        ("--version 2>&-", 0, "bnkit ", ""),
        ("--version <&-", 0, "bnkit ", ""),
        ("--version >&- 2>&-", 1, "", ""),
        ("--version 2>/dev/full", 0, "bnkit ", ""),
        ("compare nothing 2>&-", 2, "", ""),
        ("compare nothing 2>/dev/full", 2, "", ""),
        ("compare nothing >/dev/full", 2, "", "error: no recipe is called"),
    ],
)
def test_streams_that_are_closed_or_full(command, status, out, err):
    done = _in_a_shell(command)
    assert done.returncode == status
    assert done.stdout.startswith(out)
    assert done.stderr.startswith(err)
    assert (bool(done.stdout), bool(done.stderr)) == (bool(out), bool(err))


@pytest.mark.skipif(os.name != "posix", reason="there is no such shell")
@pytest.mark.parametrize("streams", [">/dev/full 2>&1", *_more("2>/dev/full", ">&- 2>&-")])
def test_no_run_fails_because_what_its_network_prints_cannot_be_written(tmp_path, monkeypatch, streams):
    monkeypatch.setenv("ONLY_PRINT", "yes")
    done = _in_a_shell(f"{' '.join(_COMPARE)} {streams}")
    assert done.returncode == (0 if streams.startswith("2") else 1)
    assert {line.rpartition(",")[2] for line in (tmp_path / "r" / "results.csv").read_text().splitlines()[1:]} == {
        "finished"
    }
