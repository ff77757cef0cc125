"""The source code of a function or a class."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def source_code(code: CodeType | type) -> str:
    """The source of a function or a class; its bytecode if there is no source."""
    try:
        return (isinstance(code, CodeType) and _of_lambda(code)) or inspect.getsource(code)
    except (TypeError, OSError, IndexError):
        if isinstance(code, CodeType):
            return _compiled(code)
    # For a class in a notebook, inspect finds only the sources of its methods.
    parts = {key: [source_code(part.__code__) for part in functions_in(value)] for key, value in vars(code).items()}
    values = {key: value for key, value in vars(code).items() if key != "__module__" and is_plain_value(value)}
    return repr((sorted(parts.items()), sorted(values.items(), key=repr)))


def functions_in(value: Any) -> Iterator[FunctionType]:
    """The functions of a class attribute: of a method, a static method or a property."""
    for part in (value, *(getattr(value, key, None) for key in ("__func__", "fget", "fset"))):
        if isinstance(part, FunctionType):
            yield part


def is_plain_value(value: object) -> bool:
    """Whether ``value`` is a bool, a number, a string or None, or a tuple of those."""
    if isinstance(value, tuple):
        return all(is_plain_value(entry) for entry in value)
    return isinstance(value, (bool, int, float, str, type(None)))


def _of_lambda(code: CodeType) -> str:
    """The source of a lambda without the rest of its statement; empty if ``code`` is not a lambda."""
    if code.co_name != "<lambda>":
        return ""
    lines, _ = inspect.findsource(code)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return ""
    positions = [
        ((first, start), (last, end))
        for first, last, start, end in code.co_positions()
        if first is not None
        and last is not None
        and start is not None
        and end is not None
        and (first, start) != (last, end)
    ]
    around = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and node.body.end_lineno is not None and node.body.end_col_offset is not None:
            begin, stop = (node.body.lineno, node.body.col_offset), (node.body.end_lineno, node.body.end_col_offset)
            if positions and all(begin <= start and end <= stop for start, end in positions):
                around.append((begin, node))
    # Of the lambdas around it, the last to begin is the innermost.
    return ast.unparse(max(around, key=lambda candidate: candidate[0])[1]) if around else ""


def _compiled(code: CodeType) -> str:
    constants = [_compiled(part) if isinstance(part, CodeType) else repr(part) for part in code.co_consts]
    return repr((code.co_code, code.co_names, constants))
