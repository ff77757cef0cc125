"""The house can be read in one look: few files in a folder, short files, no stem twice, few parameters. What stands otherwise is listed."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "bnkit"
FILES = sorted(path for path in SRC.rglob("*.py") if path.name != "__init__.py")
MOST_FILES, MOST_LINES, MOST_PARAMETERS = 16, 300, 9
# One file for each command, or for each rule.
AS_MANY_AS_NEEDED = {"cli", "checks/rules/structure", "checks/rules/statistics", "checks/rules/training"}
LONGER_FILES = {"model/edit/fold_plan.py", "nn/batch_norm.py"}
# The devices have the same files.
STEMS_TWICE = {"kernel", "launch"}
# A parameter of a command is an option, and what a Triton kernel calls takes pointers and numbers.
TAKE_MANY = ("cli/", "kernels/gpu/")
MANY_PARAMETERS = {
    # Public: each has a default, and is given by name.
    "checks/check.py: check",
    "checks/training_monitor.py: __init__",
    "claims/evaluate_claims.py: evaluate_claims",
    "comparison/compare.py: compare",
    "comparison/compare.py: run_experiment",
    "model/statistics/recalibrate.py: recalibrate",
    "nn/batch_norm.py: __init__",
    "nn/functional.py: batch_norm",
    # What of the contract of the kernels is written in a graph.
    "kernels/fused/custom_op.py: batch_norm",
    "kernels/fused/custom_op.py: batch_norm_backward",
    # Compiled loops, and what starts them.
    "kernels/cpu/launch.py: _cached_loop_call",
    "kernels/cpu/loop_call.py: loop_call_for",
    "kernels/cpu/loop_call.py: _run",
    "kernels/cpu/contiguous_loops.py: products",
    "kernels/cpu/contiguous_loops.py: write_backward",
    "kernels/cpu/channels_last_row_steps.py: finalize",
    "kernels/cpu/channels_last_row_steps.py: accumulate_backward",
    "kernels/cpu/channels_last_row_steps.py: broadcast_backward",
    "kernels/cpu/channels_last_row_steps.py: write_backward",
    # An operator of ONNX, as its reference evaluator calls it.
    "model/verify/onnx_operators.py: _run",
}


def _name(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def test_no_folder_shows_more_files_than_can_be_read_in_one_look():
    counts = Counter(_name(path.parent) for path in FILES)
    larger = {folder for folder, count in counts.items() if count > MOST_FILES}
    assert larger <= AS_MANY_AS_NEEDED


def test_files_are_short():
    assert {_name(path) for path in FILES if len(path.read_text().splitlines()) > MOST_LINES} == LONGER_FILES


def test_no_two_folders_have_a_file_of_one_name():
    """A file of a command may carry the name of its verb."""
    stems = Counter(path.stem for path in FILES if path.parent != SRC / "cli")
    assert {stem for stem, count in stems.items() if count > 1} == STEMS_TWICE


def test_no_two_files_have_a_class_of_one_name():
    """Lightning's callbacks and those of transformers are the same for two trainers."""
    names = Counter(
        node.name.lstrip("_")
        for path in FILES
        if _name(path) != "integrations/transformers.py"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_what_travels_together_is_one_value():
    many = set()
    for path in FILES:
        if _name(path).startswith(TAKE_MANY):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if sum(argument.arg not in ("self", "cls", "ctx") for argument in arguments) > MOST_PARAMETERS:
                    many.add(f"{_name(path)}: {node.name}")
    assert many == MANY_PARAMETERS
