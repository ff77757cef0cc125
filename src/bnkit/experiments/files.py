"""Writing to a results folder: whole or not at all, and with one line for the user where it cannot be done. Needs no torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bnkit.errors import RecordError


class UnwritableError(RecordError):
    """A file that cannot be written: the disk is full, or the folder is read-only. Nothing that was recorded is lost."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> UnwritableError:
        """What ``error`` means for ``path``."""
        return cls(
            f"{path} cannot be written ({error.strerror or error}); what is recorded is kept: make room, or make the folder "
            "writable, and call again"
        )


def replace(path: Path, content: bytes | memoryview) -> None:
    """Write a whole file, so that a reader or a crash sees either the old one or the new one.

    Raises:
        UnwritableError: The system refuses; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        _write(temporary, content, os.O_TRUNC)
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)  # half of a file takes room on a full disk
        raise UnwritableError.of(path, error) from error


def append(path: Path, line: bytes) -> None:
    """Append ``line``, which ends with a line break, to a file that may not be there.

    Raises:
        UnwritableError: The system refuses; the file is as it was.
    """
    try:
        before = path.stat().st_size if path.exists() else 0
        try:
            _write(path, line, os.O_APPEND)
        except OSError:
            # A torn line in the middle would be taken for damage once another line follows it.
            if path.exists():
                os.truncate(path, before)
            raise
    except OSError as error:
        raise UnwritableError.of(path, error) from error


def cut_torn_line(path: Path) -> None:
    """Remove what stands behind the last line break: a line that was cut off while it was written."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        try:
            os.truncate(path, whole)
        except OSError as error:
            raise UnwritableError.of(path, error) from error


def _write(path: Path, content: bytes | memoryview, how: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how | getattr(os, "O_BINARY", 0), 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
