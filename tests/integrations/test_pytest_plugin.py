"""The plugin for pytest, in a pytest of its own."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.child_processes import run

ROOT = Path(__file__).parents[2]
NETS = """
from torch import nn


def good():
    return nn.Sequential(nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def biased():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
"""
TESTS = """
import torch
from lib import nets


def test_good(bnkit_healthy):
    bnkit_healthy(nets.good(), example_inputs=torch.ones(3, 2))


def test_biased(bnkit_healthy):
    bnkit_healthy(nets.biased(), example_inputs=torch.ones(3, 2))


def test_an_error_alone_is_asked_for(bnkit_healthy):
    bnkit_healthy(nets.biased(), example_inputs=torch.ones(3, 2), fail_on="error")
"""


def run_pytest(folder, *arguments):
    # In this environment the entry point may be that of another version, or missing.
    plugin = ["-p", "bnkit.integrations.pytest_plugin", "-p", "no:cacheprovider"]
    done = run(
        [sys.executable, "-m", "pytest", "-q", *plugin, *arguments],
        cwd=folder,
        environment={
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT / "src"),
            "PYTEST_ADDOPTS": None,
            "CI": None,
        },
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    (tmp_path / "src" / "lib").mkdir(parents=True)
    (tmp_path / "src" / "lib" / "nets.py").write_text(NETS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = src\n")
    return tmp_path


@pytest.mark.slow
def test_the_fixture_and_the_option(project):
    (project / "test_nets.py").write_text(TESTS)
    checks = ["lib.nets:biased --input 3x2", "lib.nets:good --nonsense"]
    status, printed = run_pytest(project, *(f"--bnkit-check={check}" for check in checks))
    assert status == 1 and "3 failed, 2 passed" in printed, printed
    lines = printed.splitlines()
    assert (
        "E           AssertionError: Sequential is not healthy" in lines
        or "E       AssertionError: Sequential is not healthy" in lines
    )
    assert len([line for line in lines if line.endswith("made at src/lib/nets.py:10")]) == 2
    assert "def assert_healthy" not in printed  # the report shows the user's code alone
    assert any(line.startswith("error: No such option: --nonsense") for line in lines)
    assert re.search(r"FAILED ::bnkit check lib.nets:biased --input 3x2 - warning  BN101 0", printed)


@pytest.mark.slow
def test_the_option_alone_is_a_test_and_can_be_deselected(project):
    assert run_pytest(project, "--collect-only", "--bnkit-check", "a:b")[1].splitlines()[:1] == ["::bnkit check a:b"]
    status, printed = run_pytest(project, "--bnkit-check", "a:b", "-k", "other")
    assert status == 5 and "1 deselected" in printed
    status, printed = run_pytest(project, "--bnkit-check", "a:b 'c")
    assert status == 4 and "ERROR: --bnkit-check a:b 'c: No closing quotation; expected arguments" in printed


@pytest.mark.slow
def test_unused_it_loads_nothing(project):
    (project / "test_plain.py").write_text(
        "import sys\ndef test_it():\n    assert not {'torch', 'numpy', 'rich', 'bnkit.checks'} & set(sys.modules)\n"
    )
    status, printed = run_pytest(project)
    assert status == 0, printed


def test_it_is_an_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"bnkit": "bnkit.integrations.pytest_plugin"}
