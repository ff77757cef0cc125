"""Atomic, durable writes: after a crash or a power failure a file is either complete or unchanged. Needs no torch.

Each function calls fsync before it returns, and raises ``UnwritableError`` if the system refuses.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from bnkit.errors import RecordError


class UnwritableError(RecordError):
    """A file that cannot be written, because the disk is full or the folder is read-only."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> UnwritableError:
        """The error for ``path``."""
        return cls(
            f"{path} cannot be written ({error.strerror or error}); what is recorded is kept: make room, or make the folder "
            "writable, and call again"
        )


def replace(path: Path, content: bytes | memoryview) -> None:
    """Replace a file atomically: a reader, or a crash, sees either the old or the new content.

    Raises:
        UnwritableError: If the system refuses; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        _write(temporary, content, os.O_TRUNC)
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        _remove(temporary)  # a partial file takes space on a full disk
        raise UnwritableError.of(path, error) from error


def append(path: Path, line: bytes) -> None:
    """Append ``line``, which ends with a line break, to a file that may not exist.

    Raises:
        UnwritableError: If the system refuses; the file is unchanged.
    """
    try:
        is_new = not path.exists()
        before = 0 if is_new else path.stat().st_size
        try:
            _write(path, line, os.O_APPEND)
        except OSError:
            # A partial line followed by another would be read as corruption.
            if path.exists():
                os.truncate(path, before)
            raise
        if is_new:
            _fsync_folder(path.parent)
    except OSError as error:
        raise UnwritableError.of(path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents.

    Raises:
        OSError: If the system refuses.
    """
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for parent in reversed(missing):
        _fsync_folder(parent.parent)


def truncate_partial_line(path: Path) -> None:
    """Remove the text after the last line break: a line whose write was interrupted."""
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
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(folder: Path) -> None:
    """Flush the names of the files in ``folder`` to the disk."""
    if os.name != "posix":  # only POSIX can open a folder
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable but not readable
        return
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FSYNC_UNSUPPORTED:
            raise


# Raised by file systems, mostly on networks, that do not support fsync.
_FSYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
