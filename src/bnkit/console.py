"""Consoles: results go to standard output, everything else to standard error.

While a command runs, everything that a user's code or a library prints goes to standard error: from Python, from C, or from a
child process.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, Any, TextIO, TypeVar

from rich.console import Console
from rich.text import Text

from bnkit.text_table import UNLIMITED, wrap

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_Entry = TypeVar("_Entry")


class OutputError(Exception):
    """Standard output cannot be written. Not an OSError, because Click handles some of those itself.

    Attributes:
        is_broken_pipe: Whether standard output is a pipe that its reader has closed.
    """

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or error
        super().__init__(f"standard output cannot be written ({reason})")
        self.is_broken_pipe = error.errno == errno.EPIPE


class _StdoutFile(io.FileIO):
    """Standard output, whose errors become an ``OutputError``."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error) from error


class _StderrFile(io.FileIO):
    """Standard error, which drops what it cannot write: a full disk under a log must not fail a run that prints."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


# The real standard output while ``reserve_stdout`` has replaced ``sys.stdout``.
_reserved_stdout: TextIO | None = None


@contextmanager
def standard_streams(*, until_exit: bool) -> Iterator[None]:
    """Inside, file descriptor 1 is standard error, and only ``sys.stdout`` writes to standard output.

    Streams that a test runner or a notebook has replaced stay unchanged.

    Args:
        until_exit: Redirect ``sys.stdout`` to standard error afterwards, for what is printed while the process exits.
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
    """Inside, only ``stdout_console`` writes to standard output; ``print`` goes to standard error."""
    global _reserved_stdout
    before = _reserved_stdout, sys.stdout
    _reserved_stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        _reserved_stdout, sys.stdout = before


def stdout_console() -> _Console:
    """The console for results. In a file or a pipe, tables have their natural width, or that of COLUMNS."""
    file = sys.stdout if _reserved_stdout is None else _reserved_stdout
    width = None if file.isatty() or os.environ.get("COLUMNS", "").isdigit() else UNLIMITED
    return _Console(file=file, width=width, highlight=False)


@cache
def stderr_console() -> _Console:
    """The console for messages, each one line in a file or a pipe. One for the process, so that live displays do not collide."""
    console = _Console(stderr=True, highlight=False)
    if not (console.is_terminal or console.is_jupyter):
        console.width = UNLIMITED
    return console


def track_progress(entries: Iterable[_Entry], description: str) -> Iterable[_Entry]:
    """``entries``, with a progress bar on standard error while they are iterated over; hidden if that is not a terminal."""
    from rich.progress import track  # takes 50 ms to load, and most commands show no bar

    console = stderr_console()
    return track(entries, description, console=console, transient=True, disable=not console.is_terminal)


class _Console(Console):
    """A Rich console that raises for a closed pipe, breaks lines between words, and prints strict JSON."""

    def print_sentences(self, text: str) -> None:
        """Print ``text``: on a terminal, lines are broken between words; elsewhere they are not broken."""
        for line in wrap(text, self.width if self.is_terminal else None, hanging="  "):
            self.print(Text(line), soft_wrap=True)

    def print_table(self, table: Any) -> None:
        """Print a table, or another text in columns, laid out for the console's width. Text is not truncated."""
        self.print(table, crop=False)

    def on_broken_pipe(self) -> None:
        raise OutputError(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def print_json(self, text: str | None = None, *, data: Any = None, **options: Any) -> None:  # type: ignore[override]
        """Print ``data``, or the JSON ``text``, as strict JSON: null for non-finite numbers."""
        import json

        from bnkit.strict_json import strict

        value = strict(data if text is None else json.loads(text))
        if not self.is_terminal:  # Rich's highlighting takes minutes for the runs of a large grid
            plain = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=self.encoding != "utf-8")
            self.file.write(f"{plain}\n")
            return
        super().print_json(data=value, allow_nan=False, ensure_ascii=self.encoding != "utf-8", **options)


def _open_closed_descriptors() -> None:
    """Open closed standard streams on the null device: otherwise the next file opened gets their descriptor."""
    for number in range(_STANDARD_ERROR + 1):
        try:
            os.fstat(number)
        except OSError:
            # Read-only, so that writing results still fails, as it does on a closed stream.
            os.open(os.devnull, os.O_RDONLY if number == _STANDARD_OUTPUT else os.O_RDWR)


def _is_descriptor(stream: TextIO | None, number: int) -> bool:
    """Whether ``stream`` writes to descriptor ``number``; None stands for a stream that was closed when Python started."""
    if stream is None:
        return True
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # replaced by a test runner or a notebook
        return False


def _text_stream(raw: io.FileIO, like: IO[str] | None) -> TextIO:
    """A text stream to ``raw`` with the encoding of ``like``."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        # A character that the encoding lacks, such as "−" in ASCII, must not end the command.
        errors=errors if (errors := getattr(like, "errors", None)) not in (None, "strict") else "replace",
        line_buffering=raw.isatty() or raw.fileno() == _STANDARD_ERROR,
    )


def _discard_output(descriptor: int) -> None:
    """Point ``descriptor`` at the null device, so that flushing the stream at exit cannot fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def warn(message: str) -> None:
    """Print a warning on standard error, even with ``--quiet`` or ``--json``."""
    stderr_console().print_sentences(f"warning: {message}")
