"""What holds for every command."""

from __future__ import annotations

import re
import sys

import pytest
from typer.main import get_command

from bnkit.cli.main import app
from tests.child_processes import run
from tests.cli.cli_runner import invoke

COMMANDS = sorted(get_command(app).commands)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda c: c[0] if c else "bnkit")
def test_help_starts_with_an_example(capsys, command):
    result = invoke(capsys, *command, "--help")
    assert result.status == 0
    lines = [line.strip(" │") for line in result.out.splitlines() if line.strip(" │")]
    assert lines[0].startswith("Usage: bnkit")
    assert lines[1].startswith(" ".join(["bnkit", *(command or ["compare"])]) + " ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command):
    for parameter in get_command(app).commands[command].params:
        assert getattr(parameter, "help", None), parameter.name


def test_without_a_command_there_is_help(capsys):
    result = invoke(capsys)
    assert "compare" in result.out + result.err
    assert result.status in (0, 2)


def test_version(capsys):
    assert re.fullmatch(r"bnkit \d+\.\d+\.\d+(\.dev\d+)?\n", invoke(capsys, "--version").out)


def test_a_narrow_terminal_does_not_break_an_error_into_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert invoke(capsys, "compare", "nothing-of-that-name-is-known").err.count("\n") == 1


def test_no_colour_off_a_terminal(capsys):
    assert "\x1b" not in invoke(capsys, "compare", "nothing").err
    assert "\x1b" not in invoke(capsys, "data").out


# What takes longest to load, and no answer that is printed at once needs. Nor does a help text need pydantic, with which Typer
# converts the values of other options.
HEAVY = {"torch", "numpy", "scipy", "numba", "bokeh", "sklearn", "pooch", "rich.progress", "bnkit.experiments"}
PRINTED_AT_ONCE = [
    ["--help"], *([name, "--help"] for name in COMMANDS),
    ["--version"], ["explain"], ["explain", "BN101"], ["explain", "two-in-a-row"], ["explain", "BN999"], ["data"], ["data", "--json"],
]  # fmt: skip


@pytest.mark.slow
def test_what_is_printed_at_once_loads_nothing_heavy():
    program = f"""
import contextlib, io, sys
from bnkit.cli.main import main
loaded = set()
for arguments in {PRINTED_AT_ONCE}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
    heavy = {HEAVY} | (set() if arguments[-1] != "--help" else {{"pydantic"}})
    found = heavy & set(sys.modules) - loaded
    loaded |= found
    if found:
        print(arguments, "loads", found)
"""
    done = run([sys.executable, "-c", program])
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
