"""Where results and messages go: results to standard output, everything else to standard error.

While a command runs, standard output takes results alone: what a user's network, data or the libraries under them print, from
Python, from C or from a process of their own, goes to standard error.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, Any, TextIO

from rich.console import Console

from bnkit.strict_json import strict

# A table in a file or a pipe is not cut at 80 columns.
_WIDTH_OFF_TERMINAL = 250
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


class OutputError(Exception):
    """Standard output cannot be written. It is not an OSError: those that run a command treat some of these by themselves.

    Attributes:
        is_broken_pipe: Whether it is a pipe whose reader has ended, so that a message would have no reader either.
    """

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or error
        super().__init__(f"standard output cannot be written ({reason})")
        self.is_broken_pipe = error.errno == errno.EPIPE


class _StdoutFile(io.FileIO):
    """Standard output: its errors are told from those of other files."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error) from error


class _StderrFile(io.FileIO):
    """Standard error: what cannot be written is dropped. A full disk under a log must not fail a run whose network prints."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


# Standard output, while a command runs and ``sys.stdout`` is standard error.
_reserved_stdout: TextIO | None = None


@contextmanager
def standard_streams(*, until_exit: bool) -> Iterator[None]:
    """Inside, file descriptor 1 is standard error, and ``sys.stdout`` alone writes to standard output.

    Streams that are not the process's own, as under a test runner, stay as they are.

    Args:
        until_exit: Leave it so for the rest of the process: what is printed while it ends is not a result either.
    """
    before = sys.stdout, sys.stderr
    _open_closed_descriptors()
    if _is_descriptor(sys.stderr, _STANDARD_ERROR):
        sys.stderr = _text_stream(_StderrFile(_STANDARD_ERROR, "w", closefd=False), sys.stderr)
    copy: int | None = None
    if _is_descriptor(sys.stdout, _STANDARD_OUTPUT):
        if sys.stdout is not None:
            sys.stdout.flush()
        copy = os.dup(_STANDARD_OUTPUT)
        os.dup2(_STANDARD_ERROR, _STANDARD_OUTPUT)
        sys.stdout = _text_stream(_StdoutFile(copy, "w", closefd=False), sys.stdout)
    try:
        yield
    finally:
        with suppress(OutputError):
            sys.stdout.flush()
        if copy is not None and until_exit:
            _discard_output(copy)
            sys.stdout = sys.stderr
        else:
            if copy is not None:
                os.dup2(copy, _STANDARD_OUTPUT)
                _discard_output(copy)
            sys.stdout, sys.stderr = before


@contextmanager
def reserve_stdout() -> Iterator[None]:
    """Inside, ``stdout_console`` writes to standard output, and everything else that is printed goes to standard error."""
    global _reserved_stdout
    before = _reserved_stdout, sys.stdout
    _reserved_stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        _reserved_stdout, sys.stdout = before


def stdout_console() -> _Console:
    """The console for what was asked for."""
    file = sys.stdout if _reserved_stdout is None else _reserved_stdout
    return _Console(file=file, width=None if file.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


@cache
def stderr_console() -> Console:
    """The console for everything else: standard error. One for the process, so that what moves on it does not collide."""
    return _Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


class _Console(Console):
    """Rich's, but for what it makes of a closed pipe and of numbers that JSON does not know."""

    def on_broken_pipe(self) -> None:
        raise OutputError(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def print_json(self, text: str | None = None, *, data: Any = None, **options: Any) -> None:  # type: ignore[override]
        """Print ``data``, or the JSON ``text``, as strict JSON: null for what is not finite."""
        value = strict(data if text is None else json.loads(text))
        super().print_json(data=value, allow_nan=False, ensure_ascii=self.encoding != "utf-8", **options)


def _open_closed_descriptors() -> None:
    """Where a standard stream is closed, the next file that is opened would get its number, and what is printed would go into it."""
    for number in range(_STANDARD_ERROR + 1):
        try:
            os.fstat(number)
        except OSError:
            # For reading alone: writing results there stays an error, as it is to a closed stream.
            os.open(os.devnull, os.O_RDONLY if number == _STANDARD_OUTPUT else os.O_RDWR)


def _is_descriptor(stream: TextIO | None, number: int) -> bool:
    """Whether a standard stream is the process's own; Python has None for one that was closed when it started."""
    if stream is None:
        return True
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # a test's, or a notebook's
        return False


def _text_stream(raw: io.FileIO, like: IO[str] | None) -> TextIO:
    """Text to ``raw``, as Python's own stream ``like`` writes it."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        # A character that the encoding lacks, as "−" in ASCII, must not end the command.
        errors=errors if (errors := getattr(like, "errors", None)) not in (None, "strict") else "replace",
        line_buffering=raw.isatty() or raw.fileno() == _STANDARD_ERROR,
    )


def _discard_output(descriptor: int) -> None:
    """Let what a stream could not write be written, to nowhere, when Python closes it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def warn(message: str) -> None:
    """Print what a user should know, whatever else is asked for: on standard error."""
    stderr_console().print(f"warning: {message}", soft_wrap=True, markup=False, highlight=False)
