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
    "checks/findings_output.py",
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
        ("batch_size=0; expected 1", "--batch-size 0; expected 1"),
        ("to='batch norm'; expected torch", "--to batch norm; expected torch"),
        ("grid: batch_size=9 is too large", "grid: batch_size=9 is too large"),
        ("or a `forward` that takes them", "or a factory of a model whose forward takes them"),
        ("train it, or bnkit.recalibrate(model, batches)", "train it, or bnkit recalibrate"),
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


# Messages in Python's words also on the command line, because what to do is to be done in Python.
IN_PYTHON = {
    "argument_checks.py": "the process group and the device of a call",
    "claims/": "bnkit.claims has the same parameters; the command line checks them first",
    "comparison/": "tables and folders that only Python opens",
    "checks/rules/statistics/bn203_non_finite_running_stats.py": "an argument of the layer",
    "cli/": "the command line's own words",
    "data/user_data.py": "data that were given in Python",
    "data/examples.py": "torch.unique",
    "data/splits.py": "a key of an experiment file",
    "experiments/experiment.py": "keys of an experiment file",
    "experiments/networks/": "factories, which are Python",
    "experiments/plan.py": "a caller in Python",
    "experiments/running/start_and_stop_worker.py": "a script that calls bnkit.compare",
    "experiments/training/learning_task.py": "a function that was given in Python",
    "integrations/": "callbacks",
    "kernels/": "layers",
    "memory/": "layers",
    "nn/": "layers",
    "report/paper/": "plots",
    "model/program_file.py": "torch.export.load runs code, which no command does",
    "checks/rules/structure/bn110_stripped_by_sync.py": "the training script converts the layers",
    "checks/rules/training/": "the training script",
    "checks/rules/statistics/bn206_few_values.py": "the training script",
    "checks/rules/statistics/bn208_updated_twice.py": "the training script",
    "checks/training_monitor.py": "the training script",
    "model/edit/convert.py": "how= takes a function",
    "model/edit/replace.py": "a process group",
    "intervals/": "a caller in Python",
}
_CALL = re.compile(
    r"(?<!import )\bbnkit\.[a-z_]+\b(?!\.)|\b(?!drop_last|bias|momentum|eps|weights_only|strict)[a-z_]+=(?!=)"
)


def _text(node):
    """The text of ``node``, with X in place of what an f-string computes; empty for other expressions."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_message_of_a_command_speaks_of_python_s_calls_and_keywords():
    """Of every error and remedy in the package, in the words that the command line puts in."""
    spoken = []
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(tuple(IN_PYTHON)):
            continue
        tree = ast.parse(path.read_text())
        raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
        remedies = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "remedy"]
        spoken += [
            f"{name}:{node.lineno}: {text}"
            for node in (*raised, *remedies)
            for text in map(_text, (node, *getattr(node, "args", ())))
            if _CALL.search(re.sub(r"grid: \w+=", "", with_options(text)))
        ]
    assert spoken == []
