"""Record the line of the user's code that creates each module of a model, while that code runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from torch import nn

from bnkit.parse_imports import is_user_code

# Stored in the module's ``__dict__``, so that copies have it too: networks are often built from deep copies of one
# block.
_KEY = "_bnkit_made_at"


class SourceLine(NamedTuple):
    """A line of a file.

    Attributes:
        file: Relative to the working directory, with slashes, if the file is below it; otherwise absolute.
        line: From 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@contextmanager
def record_construction() -> Iterator[None]:
    """Inside, every new module stores the line of the user's code that created it; ``line_of`` returns it.

    It is the line of the call: ``nn.BatchNorm2d(8)`` in a loop, a helper function or a ``Sequential``. For modules that
    a library creates, it is the line that called the library. Unpickled modules have no line.
    """
    original = nn.Module.__init__

    @wraps(original)
    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        with suppress(Exception):  # an error here must not stop the construction of the module
            if _KEY not in vars(self) and (line := _calling_line(self, sys._getframe(1))) is not None:
                vars(self)[_KEY] = line
        original(self, *args, **kwargs)

    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def line_of(model: nn.Module, name: str) -> SourceLine | None:
    """The line that created the module ``name`` of ``model``, or its nearest parent with a line; None if none has."""
    parts = name.split(".") if name else []
    for count in range(len(parts), -1, -1):
        with suppress(AttributeError):
            line = vars(model.get_submodule(".".join(parts[:count]))).get(_KEY)
            if line is not None:
                return SourceLine(_shown(line[0]), line[1])
    return None


def _calling_line(module: nn.Module, start: FrameType) -> tuple[str, int] | None:
    """The innermost line of the user's code outside the methods of ``module`` itself."""
    frame: FrameType | None = start
    while frame is not None:
        code = frame.f_code
        file = str(Path(code.co_filename).absolute())  # the working directory may change later
        if _is_user_file(file) and not (code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is module):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


@lru_cache(maxsize=4096)
def _is_user_file(file: str) -> bool:
    path = Path(file)
    return path.is_file() and is_user_code(path.resolve())


def _shown(file: str) -> str:
    path = Path(file)
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()
