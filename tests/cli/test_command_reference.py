"""The command reference of the documentation says what the commands say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.child_processes import run


@pytest.mark.slow
def test_the_command_reference_is_fresh(tmp_path):
    written = tmp_path / "commands.md"
    command = ["bnkit.cli.main", "utils", "docs", "--name", "bnkit", "--title", "Command line"]
    done = run([sys.executable, "-m", "typer", *command, "--output", str(written)])
    assert done.returncode == 0, done.stderr
    committed = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
    assert committed.read_text() == written.read_text(), "run `make docs` and commit docs/reference/commands.md"
