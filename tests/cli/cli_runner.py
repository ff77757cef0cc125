"""Calling the command line: in this process, or in one of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bnkit.cli.main import main
from tests.child_processes import Child

TINY_EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "tiny_experiment.py")
# A comparison that takes a fraction of a second.
QUICK_COMPARE = (f"{TINY_EXPERIMENT}:networks", "--data", f"{TINY_EXPERIMENT}:data", "--grid", "lr=0.05", "batch_size=16", "--seeds", "2", "--epochs", "2")  # fmt: skip


@dataclass(frozen=True)
class CliResult:
    status: int
    out: str
    err: str


def invoke(capsys, *arguments: str) -> CliResult:
    """What ``bnkit ARGUMENTS`` prints, and its exit status."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    printed = capsys.readouterr()
    code = end.value.code
    return CliResult(code if isinstance(code, int) else 0, printed.out, printed.err)


def start(*arguments: str, cwd: Path) -> Child:
    """``bnkit ARGUMENTS`` in a process of its own, which is ended with the block that it is the context of."""
    return Child([sys.executable, "-m", "bnkit.cli.main", *arguments], cwd=cwd)
