"""A marker file that lists the files bnkit wrote in a folder; all others are the user's. Needs no torch."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bnkit.errors import RecordError
from bnkit.experiments.records import atomic_files

MARKER = ".bnkit"
# The lock file, which is empty.
LOCK = ".lock"
# The title of a page ends so, within this many bytes.
_PAGE_SIGN, _HEAD = "– bnkit</title>".encode(), 2000
# The program that wrote a picture, in the metadata of PDF and of SVG.
_PICTURE_SIGNS = (b"/Creator (bnkit)", b"<dc:title>bnkit</dc:title>")
_ABOUT = "bnkit wrote these files here, and may replace them; other files are left alone"
_RUN_ID = re.compile(r"[0-9a-f]{12}")


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Raise if writing ``names`` in ``folder`` would replace a file that bnkit did not write.

    Raises:
        RecordError: If one of them exists and is not bnkit's, or ``folder`` is a file.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise RecordError(f"{folder} cannot be written: it is a file; expected a folder: use another `out`")
        foreign = _foreign(folder, names)
    except OSError as error:
        raise RecordError(
            f"{folder} cannot be read ({error.strerror or error}); expected a folder that can: use another `out`"
        ) from error
    if foreign:
        is_one = len(foreign) == 1
        raise RecordError(
            f"{folder} holds {' and '.join(foreign)}, which {'was' if is_one else 'were'} not written by bnkit and would be "
            f"replaced; expected an empty folder, or one of an earlier call: use another `out`, or move {'it' if is_one else 'them'}"
        )


def mark(folder: Path, names: Iterable[str]) -> None:
    """Add ``names`` to the marker of ``folder``, except for existing files of the user.

    Raises:
        UnwritableError: If the folder cannot be written.
    """
    names = list(names)
    foreign = _foreign(folder, names)
    known = _marked(folder) or []
    written = [*known, *(name for name in names if name not in known and name not in foreign)]
    if written != known:
        content = json.dumps({"about": _ABOUT, "written": written}, indent=1)
        atomic_files.replace(folder / MARKER, content.encode())


def refuse_foreign_page(path: Path) -> None:
    """Raise if ``path`` is a file that is not a page of bnkit.

    Raises:
        RecordError: If it is.
    """
    _refuse_without_sign(path, [_PAGE_SIGN], "a report of bnkit's", _HEAD)


def refuse_foreign_picture(path: Path) -> None:
    """Raise if ``path`` is a file that is not a picture of bnkit, in PDF or SVG.

    Raises:
        RecordError: If it is.
    """
    _refuse_without_sign(path, _PICTURE_SIGNS, "a picture of bnkit's")


def _refuse_without_sign(path: Path, signs: Iterable[bytes], what: str, size: int = -1) -> None:
    """Raise if ``path`` is a file without any of ``signs`` in its first ``size`` bytes, or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(size)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); expected a file that can: use `out`"
        ) from error
    if not any(sign in content for sign in signs):
        raise RecordError(f"{path} is there and is not {what}; expected another file: use `out`")


def _foreign(folder: Path, names: Iterable[str]) -> list[str]:
    there = [name for name in (*names, MARKER) if _is_there(folder / name)]
    marked = _marked(folder)
    if marked is None:
        return [] if _predates_markers(folder) else there
    return [name for name in there if name not in (*marked, MARKER)]


def _is_there(path: Path) -> bool:
    return (path.exists() or path.is_symlink()) and not (path.name == LOCK and path.stat().st_size == 0)


def _marked(folder: Path) -> list[str] | None:
    """The names in the marker; None if there is none that can be read."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
        return [str(name) for name in content["written"]]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _predates_markers(folder: Path) -> bool:
    """Whether an earlier version of bnkit, without markers, wrote a comparison or verdicts in ``folder``."""
    with suppress(OSError, ValueError):
        content = tomllib.loads((folder / "experiment.toml").read_text(encoding="utf-8"))
        if isinstance(content.get("settled"), dict) and (folder / "runs").is_dir():
            return True
    with suppress(OSError, ValueError, TypeError):
        verdicts = json.loads((folder / "claims.json").read_bytes())
        if {"claims", "answer", "environment"} <= verdicts.keys():
            return True
    records = (run / "record.jsonl" for run in folder.glob("runs/*") if _RUN_ID.fullmatch(run.name))
    return any(_is_record(record) for record in records)


def _is_record(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return b'"event"' in file.readline()
    return False
