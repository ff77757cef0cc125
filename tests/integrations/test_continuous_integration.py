"""The hook for pre-commit, and the action for GitHub, whose steps run here as its runner would run them."""

from __future__ import annotations

import json
import os
import re
import shlex
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


def test_the_address_of_the_repository_is_set_in_one_place():
    """Where it is not known yet, there is no placeholder to replace elsewhere."""
    files = [
        *ROOT.glob("*.*"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("src/**/*.py"),
        *ROOT.glob("*/.*"),
        ROOT / ".pre-commit-hooks.yaml",
    ]
    assert not [file for file in files if file.is_file() and re.search(r"\bOWNER\b", file.read_text(errors="replace"))]


def test_hooks_take_no_file_names_and_run_the_command():
    assert {hook["entry"] for hook in HOOKS.values()} == {"bnkit check"}
    assert not any(hook["pass_filenames"] for hook in HOOKS.values())


def test_the_documentation_names_hooks_and_inputs_that_there_are():
    repositories = [each for content in PAGE if "repos" in content for each in content["repos"]]
    assert {hook["id"] for each in repositories for hook in each["hooks"]} == HOOKS.keys()
    (local,) = [hook for each in repositories if each["repo"] == "local" for hook in each["hooks"]]
    given = {**HOOKS["bnkit-check"], "entry": local["entry"]}
    assert local.items() <= given.items() and local["entry"].startswith(HOOKS["bnkit-check"]["entry"])
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
@pytest.mark.parametrize("is_local", [True, False], ids=["as a local hook", "from a clone of the repository"])
def test_pre_commit_runs_the_hook(tmp_path, is_local):
    project, clone = tmp_path / "project", tmp_path / "clone"
    project.mkdir()
    (project / "nets.py").write_text(NETS)
    hook = {"args": ["nets.py:biased", "--input", "3x2"]}
    commands = [["git", "init", "-q"], ["git", "add", "nets.py"]]
    if is_local:
        source = {"repo": "local", "hooks": [{**HOOKS["bnkit-check"], **hook}]}
    else:
        commands.append(["git", "clone", "-q", "--no-tags", str(ROOT), str(clone)])
        revision = run(["git", "rev-parse", "HEAD"], cwd=ROOT).stdout.strip()
        source = {"repo": "../clone", "rev": revision, "hooks": [{"id": "bnkit-check", **hook}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [source]}))
    for arguments in commands:
        assert run(arguments, cwd=project).returncode == 0
    environment = _program(tmp_path, f'exec {sys.executable} -m bnkit.cli.main "$@"')
    environment["PRE_COMMIT_HOME"] = str(tmp_path / "cache")
    done = run([sys.executable, "-m", "pre_commit", "run", "--all-files"], cwd=project, environment=environment)
    assert done.returncode == 1 and "made at nets.py:6" in done.stdout, done.stdout + done.stderr


def _filled(text, contexts):
    """The text with each ``${{ name }}`` replaced by its value, as the runner does."""
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda match: contexts[match[1]], text)


class Runner:
    """Runs the steps of the action in their order, as the runner of GitHub does; `uses` is only noted.

    Args:
        workspace: The checked out repository of the user, where steps run.
        action: Where the action is checked out.
        environment: Variables of the job.
    """

    def __init__(self, workspace, action, environment):
        self.workspace, self.action, self.environment = workspace, action, environment
        self.printed, self.used = [], []

    def run(self, **inputs):
        contexts = {
            f"inputs.{name}": given["default"] for name, given in ACTION["inputs"].items() if "default" in given
        }
        contexts |= {f"inputs.{name.replace('_', '-')}": value for name, value in inputs.items()}
        contexts["github.action_path"] = str(self.action)
        status = 0
        for step in ACTION["runs"]["steps"]:
            if self._is_due(step.get("if", "success()"), contexts, status):
                status = self._step(step, contexts) or status
        return status

    def _is_due(self, condition, contexts, status):
        terms = condition.split(" && ")
        assert terms[0] in ("success()", "always()"), condition
        comparisons = [re.fullmatch(r"([\w.-]+) == '(\w+)'", term) for term in terms[1:]]
        return (status == 0 or terms[0] == "always()") and all(contexts.get(term[1]) == term[2] for term in comparisons)

    def _step(self, step, contexts):
        if "uses" in step:
            self.used.append((step["uses"], {name: _filled(value, contexts) for name, value in step["with"].items()}))
            return 0
        assert "${{" not in step["run"]  # what a user gives would run as code
        output, script = self.action.parent / "output", self.action.parent / "script"
        output.write_text("")
        script.write_text(step["run"])
        given = {name: _filled(value, contexts) for name, value in step["env"].items()}
        github = {
            "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(self.workspace), "GITHUB_ACTION_PATH": str(self.action), "GITHUB_OUTPUT": str(output),
        }  # fmt: skip
        shell = {"bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"], "python": ["python"]}[step["shell"]]
        done = run([*shell, str(script)], cwd=self.workspace, environment={**self.environment, **github, **given})
        self.printed.append(done.stdout)
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            contexts[f"steps.{step['id']}.outputs.{name}"] = value
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode


@pytest.fixture
def runner(tmp_path):
    """A runner in folders with spaces and quotes in their names, whose `pip` notes what it is asked to install."""
    workspace, action = tmp_path / "the user's $(work) space", tmp_path / "an action"
    for folder in (workspace, action, tmp_path / "bin"):
        folder.mkdir()
    (workspace / "nets.py").write_text(NETS)
    for name, script in {
        "python": f'case "$*" in "-m pip "*) printf "%s\\n" "$@"; exit ;; esac; exec "{sys.executable}" "$@"',
        "bnkit": 'printf "%s\\n" "$@"; exit "${STATUS:-0}"',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return Runner(workspace, action, {"PATH": path, "PYTHONPATH": str(ROOT / "src")})


def test_the_action_installs_what_is_checked_out(runner):
    assert runner.run(target="nets.py:net") == 0
    assert runner.printed[0].splitlines() == ["-m", "pip", "install", str(runner.action)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--input 3x2", ["--input", "3x2"]),
        ("", []),
        ("--select  'BN1,BN2'\n--data \"a b.npz\"", ["--select", "BN1,BN2", "--data", "a b.npz"]),
        ("--weights ''", ["--weights", ""]),
        ("--data it\\'s.npz", ["--data", "it's.npz"]),
        ("; touch injected $(touch injected) `touch injected`", [";", "touch", "injected", "$(touch", "injected)", "`touch", "injected`"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["nets.py:net", "my nets.py:a'b\"$(touch injected)", "--help"])
def test_the_action_passes_on_what_it_is_given(runner, arguments, expected, target):
    runner.run(target=target, arguments=arguments)
    assert runner.printed[1].splitlines() == ["check", *expected, "--format", "github", "--", target]
    assert {file.name for file in runner.workspace.iterdir()} == {"nets.py"} and runner.used == []


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_action_uploads_a_log_also_of_findings(runner, status):
    runner.environment["STATUS"] = str(status)
    assert runner.run(target="nets.py:net", format="sarif", sarif_file="a log's.sarif") == status
    assert (runner.workspace / "a log's.sarif").read_text().startswith("check\n")
    (used,) = runner.used
    assert used == ("github/codeql-action/upload-sarif@v4", {"sarif_file": "a log's.sarif", "category": "bnkit"})


def test_the_action_uploads_nothing_if_the_network_cannot_be_checked(runner):
    (runner.workspace.parent / "bin" / "bnkit").write_text("#!/bin/sh\necho no such file >&2\nexit 2\n")
    assert runner.run(target="nets.py:net", format="sarif") == 2
    assert runner.used == [] and not (runner.workspace / "bnkit.sarif").exists()


def test_the_action_names_arguments_that_cannot_be_split(runner):
    assert runner.run(target="nets.py:net", arguments="--input 'a") == 2
    assert runner.printed[1].startswith("::error::arguments: No closing quotation; expected arguments of `bnkit check`")


@pytest.mark.slow
def test_the_action_finds_something(runner):
    (runner.workspace.parent / "bin" / "bnkit").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m bnkit.cli.main "$@"\n'
    )
    given = {"target": "nets.py:biased", "arguments": "--input 3x2"}
    assert runner.run(**given) == 1
    assert "::warning file=nets.py,line=6," in runner.printed[1]
    assert runner.run(**given, format="sarif") == 1
    (log,) = json.loads((runner.workspace / "bnkit.sarif").read_text())["runs"]
    assert [result["ruleId"] for result in log["results"]] == ["BN101"] and len(runner.used) == 1
