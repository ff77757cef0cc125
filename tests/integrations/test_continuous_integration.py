"""The hook for pre-commit and the action for GitHub run what they say, as far as that can be seen without either."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.child_processes import run
from tests.cli.cli_runner import invoke
from tests.integrations.test_pytest_plugin import run_pytest

ROOT = Path(__file__).parents[2]
NETS = """
from torch import nn


def biased():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
"""


def _blocks(language):
    """The blocks of the page in that language; without one, in none."""
    page = (ROOT / "docs" / "how-to" / "ci.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


PAGE = [yaml.safe_load(text) for text in _blocks("yaml")]
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


def _program(folder, script):
    """An environment in which the command ``bnkit`` is ``script``."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "bnkit"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}


def test_hooks_take_no_file_names_and_run_the_command():
    assert {hook["entry"] for hook in HOOKS.values()} == {"bnkit check"}
    assert not any(hook["pass_filenames"] for hook in HOOKS.values())


def test_the_documentation_names_hooks_and_inputs_that_there_are():
    (config,) = [content for content in PAGE if "repos" in content]
    assert {hook["id"] for repository in config["repos"] for hook in repository["hooks"]} <= HOOKS.keys()
    steps = [step for content in PAGE if "jobs" in content for job in content["jobs"].values() for step in job["steps"]]
    used = [step["with"] for step in steps if "bnkit" in step.get("uses", "")]
    assert used and all(given.keys() <= ACTION["inputs"].keys() for given in used)
    assert "target" in used[0]


@pytest.mark.slow
def test_the_documentation_shows_what_is_printed(capsys, tmp_path, monkeypatch):
    network, test = _blocks("python")
    (tmp_path / "nets.py").write_text(network)
    monkeypatch.chdir(tmp_path)
    (shown,) = [text for text in _blocks("") if text.startswith("$ bnkit check")]
    command, *lines = shown.splitlines()
    result = invoke(capsys, *shlex.split(command)[2:])
    assert result.status == 1 and result.out.splitlines()[: len(lines)] == lines
    (tmp_path / "test_network.py").write_text(test)
    (ini,) = _blocks("ini")
    (tmp_path / "pytest.ini").write_text(ini)
    status, printed = run_pytest(tmp_path)
    assert status == 1 and "FAILED ::bnkit check nets.py:net" in printed and "1 failed, 1 passed" in printed, printed


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pre-commit") is None, reason="pre-commit is not installed")
def test_pre_commit_runs_the_hook(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    hook = {**HOOKS["bnkit-check"], "args": ["nets.py:biased", "--input", "3x2"]}
    (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [hook]}]}))
    for arguments in (["git", "init", "-q"], ["git", "add", "nets.py"]):
        assert run(arguments, cwd=tmp_path).returncode == 0
    environment = _program(tmp_path, f'exec {sys.executable} -m bnkit.cli.main "$@"')
    done = run(["pre-commit", "run", "--all-files"], cwd=tmp_path, environment=environment)
    assert done.returncode == 1 and "made at nets.py:6" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("form", "arguments", "expected"),
    [
        ("github", "--input 3x2", ["--input", "3x2", "--format", "github"]),
        ("github", "", ["--format", "github"]),
        ("json", "--select  'BN1,BN2'\n--data 'a b.npz'", ["--select", "BN1,BN2", "--data", "a b.npz", "--format", "json"]),
        ("sarif", "--input 3x2", ["--input", "3x2", "--format", "sarif"]),
        ("github", "; touch injected $(touch injected)", [";", "touch", "injected", "$(touch", "injected)", "--format", "github"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [0, 1])
def test_the_script_of_the_action(tmp_path, form, arguments, expected, status):
    environment = _program(tmp_path, f"printf '%s\\n' \"$@\"; exit {status}")
    (step,) = [step for step in ACTION["runs"]["steps"] if step["name"] == "Check"]
    given = {"TARGET": "nets.py:net", "ARGUMENTS": arguments, "FORMAT": form, "SARIF_FILE": "bnkit.sarif"}
    assert given.keys() == step["env"].keys()
    # As the runner starts the shell `bash`.
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = run(shell, cwd=tmp_path, environment={**environment, **given})
    printed = (tmp_path / "bnkit.sarif").read_text() if form == "sarif" else done.stdout
    assert (done.returncode, printed.splitlines()) == (status, ["check", "nets.py:net", *expected]), done.stderr
    assert not (tmp_path / "injected").exists()


def test_no_script_of_the_action_is_made_of_text_that_a_user_gives():
    assert not any("${{" in step.get("run", "") for step in ACTION["runs"]["steps"])
