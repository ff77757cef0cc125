"""Messages of the library name its parameters; the command line puts its options in."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bnkit
from bnkit.cli.options import with_options

SOURCE = Path(bnkit.__file__).parent
# Not messages: a command that a page shows, the output of `bnkit check`, and git's options.
NOT_MESSAGES = {
    "claims/evaluate_claims.py",
    "checks/findings.py",
    "experiments/records/environment.py",
    "integrations/pytest_plugin.py",  # an option of pytest
}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("use another `out`", "use another --out"),
        ("120 seconds of `run_timeout`", "120 seconds of --run-timeout"),
        ("expected one (`example_inputs` or `batches`)", "expected one (--input or --data)"),
        ("no layer is called `layer1`", "no layer is called `layer1`"),
    ],
)
def test_a_parameter_becomes_the_option(message, expected):
    assert with_options(message) == expected


def test_the_library_speaks_of_no_option():
    spoken = []
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith("cli/") or name in NOT_MESSAGES:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        spoken += [
            f"{name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
            and re.search(r"(?<![\w-])--[a-z]", node.value.replace("ray start --head", ""))
        ]
    assert spoken == []
