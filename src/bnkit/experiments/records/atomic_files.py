"""Writing to a results folder: whole or not at all, and with one line for the user where it cannot be done. Needs no torch.

What is written is on the disk when a function returns, not only with the system: it outlives a loss of power too.
"""

from __future__ import annotations

import contextlib
import errno
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
        _fsync_folder(path.parent)
    except OSError as error:
        _remove(temporary)  # half of a file takes room on a full disk
        raise UnwritableError.of(path, error) from error


def append(path: Path, line: bytes) -> None:
    """Append ``line``, which ends with a line break, to a file that may not be there.

    Raises:
        UnwritableError: The system refuses; the file is as it was.
    """
    try:
        is_new = not path.exists()
        before = 0 if is_new else path.stat().st_size
        try:
            _write(path, line, os.O_APPEND)
        except OSError:
            # A torn line in the middle would be taken for damage once another line follows it.
            if path.exists():
                os.truncate(path, before)
            raise
        if is_new:
            _fsync_folder(path.parent)
    except OSError as error:
        raise UnwritableError.of(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, where they are not there yet.

    Raises:
        OSError: The system refuses.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        _fsync_folder(place.parent)


def truncate_partial_line(path: Path) -> None:
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
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder(folder: Path) -> None:
    """Let what files are called in ``folder`` reach the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to a folder that one may not list
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


# File systems, mostly of networks, that know no such call.
_FSYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
