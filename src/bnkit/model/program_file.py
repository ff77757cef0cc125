"""Load programs of ``torch.export`` from untrusted files: a file that could run code is refused."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.utils._sympy import functions

from bnkit.errors import ModelError

_TOLD = 300
# Operations in a program, by the names that PyTorch looks up.
_OPERATION = re.compile(r"torch\.ops(\.[A-Za-z]\w*){2,3}|torch\.sym_\w+|_operator\.\w+|math\.\w+")
_NO_OPERATION = {"_operator.call", "_operator.attrgetter", "_operator.methodcaller", "_operator.itemgetter"}
# Attributes in expressions for sizes: "L['x'].size()[0]", "math.floor(s0 / 2)".
_ATTRIBUTES = {"size", "shape", "stride", "storage_offset", "dim", "dtype", "numel", "floor", "ceil", "trunc", "sqrt"}
_ATTRIBUTES |= {"sym_max", "sym_min", "sym_not", "sym_ite", "sym_float", "sym_int"}
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Subscript, ast.Attribute, ast.Compare,
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Tuple,
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z]\w*")
_MEMBERS = re.compile(r"weight_\d+|tensor_\d+|.*_config\.json")


def load_program(path: str | Path) -> ExportedProgram:
    """The program that ``torch.export.save`` wrote to ``path``.

    ``torch.export.load`` unpickles objects that are not tensors, and evaluates the expressions for sizes. This function
    reads only tensors and arithmetic expressions; a file with anything else is refused before it is loaded.

    Raises:
        ModelError: The file does not exist, is not an exported program, or holds something that could run as code.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is not there; expected a file that torch.export.save wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            reason = next(_what_may_run(archive), "")
        if not reason:
            with _tensors_alone():
                return torch.export.load(path)
    except Exception as error:  # a truncated or foreign file may raise any error
        raise ModelError(
            f"{path} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:_TOLD]}); expected a file that "
            "torch.export.save of this version of PyTorch wrote"
        ) from error
    raise ModelError(
        f"{path} is not loaded: it holds {reason[:_TOLD]}, which could run as code; expected tensors, operations and sizes "
        "alone: if you trust the file, give torch.export.load(FILE) to bnkit.fold"
    )


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Inside, ``torch.load`` reads only tensors, even with ``weights_only=False``; logs and warnings are off."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before, logger = os.environ.get(name), logging.getLogger("torch.export")
    level = logger.level
    os.environ[name] = "1"
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _what_may_run(archive: zipfile.ZipFile) -> Iterator[str]:
    """Describe the parts of a file that could run as code."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        yield "two entries of one name"
    if not any(name.endswith("/archive_format") for name in names):
        yield "not an archive of a program"
    for name in map(PurePosixPath, names):
        if name.parent.name in ("weights", "constants") and not _MEMBERS.fullmatch(name.name):
            yield f"{name.name}, which is not a tensor"
        if name.parent.name == "models" and name.suffix == ".json":
            yield from _harmful_in(json.loads(archive.read(str(name))))
        if name.name.endswith("_config.json"):
            yield from _pickled_in(json.loads(archive.read(str(name))))


def _pickled_in(content: Any) -> Iterator[str]:
    """The entries of a list of weights or constants that are not tensor files."""
    for entry in _entries(content):
        file = entry.get("path_name")
        if file is not None and not _MEMBERS.fullmatch(str(file)):
            yield f"{file}, which is not a tensor"


def _harmful_in(content: Any) -> Iterator[str]:
    """The expressions and operations of a program that are not arithmetic or not operations of PyTorch."""
    for entry in _entries(content):
        target = entry.get("target")
        if isinstance(target, str) and "inputs" in entry and not _is_operation(target):
            yield f"the operation {target!r}"
        for text in (entry.get("expr_str"), *(entry.get("guards_code") or ())):
            if text is not None and not is_arithmetic(str(text)):
                yield f"the expression {text!r}"


def _is_operation(target: str) -> bool:
    return _OPERATION.fullmatch(target) is not None and target not in _NO_OPERATION and "__" not in target


def _entries(content: Any) -> Iterator[dict[str, Any]]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def is_arithmetic(text: str) -> bool:
    """Whether ``text`` only computes with sizes, and calls only functions of numbers.

    Examples:
        >>> is_arithmetic("Mul(Integer(8), Symbol('s16', positive=True, integer=True))")
        True
        >>> is_arithmetic("L['x'].size()[2] >= 3"), is_arithmetic("__import__('os').system('ls')")
        (True, False)
    """
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(isinstance(node, _NODES) and _is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        # sympy evaluates strings; only plain names are harmless.
        is_plain = node.value is None or isinstance(node.value, (bool, int, float))
        return is_plain or (isinstance(node.value, str) and _WORD.fullmatch(node.value) is not None)
    if isinstance(node, ast.Name):
        return _WORD.fullmatch(node.id) is not None
    if isinstance(node, ast.Attribute):
        return node.attr in _ATTRIBUTES
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (isinstance(node.func, ast.Name) and _is_function(node.func.id))
    return True


def _is_function(name: str) -> bool:
    """Whether this is the name of a numeric function of PyTorch or sympy."""
    attribute = getattr(sympy, name, None)
    is_of_sympy = isinstance(attribute, type) and issubclass(attribute, (sympy.Expr, sympy.logic.boolalg.Boolean))
    return name in functions.__all__ or is_of_sympy
