"""Download published files into a cache, verified by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import platformdirs

from bnkit.console import stderr_console
from bnkit.errors import DataError


class FileState(StrEnum):
    """Whether a file is in the cache."""

    THERE = "there"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class PublishedFile:
    """A file with a public URL and a known SHA-256.

    Attributes:
        name: Its path below the cache directory.
        address: The URL it is published at.
        sha256: The digest of its content, hexadecimal.
    """

    name: str
    address: str
    sha256: str

    def state(self) -> FileState:
        """Whether the file is in the cache with the right digest. Reads the whole file."""
        path = cache_directory() / self.name
        if not path.is_file():
            return FileState.MISSING
        return FileState.THERE if _sha256(path) == self.sha256 else FileState.BROKEN

    def fetch(self) -> Path:
        """The path of the file, downloaded and verified if it is missing.

        Raises:
            DataError: If the cached file is corrupt (it is left alone), or the download fails or has another digest.
        """
        path = cache_directory() / self.name
        state = self.state()
        if state is FileState.BROKEN:
            raise DataError(
                f"{path} is broken: its SHA-256 is {_sha256(path)}, expected {self.sha256}; delete it and call again "
                "to fetch it, or set BNKIT_DATA to a directory that holds the published files"
            )
        if state is FileState.MISSING:
            self._download(path)
        return path

    def _download(self, path: Path) -> None:
        import pooch  # needed to download alone, and loads requests

        pooch.get_logger().setLevel("WARNING")  # the progress bar or the error says what is downloaded
        with _Progress(self.name) as progress:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # pooch downloads to a temporary file and moves it once its digest matches.
                pooch.retrieve(
                    self.address,
                    known_hash=f"sha256:{self.sha256}",
                    fname=path.name,
                    path=path.parent,
                    downloader=pooch.HTTPDownloader(progressbar=progress, timeout=30),
                )
            except (OSError, ValueError) as error:  # network errors are OSErrors; a wrong digest is a ValueError
                raise DataError(
                    f"{self.name} is not in {cache_directory()} and could not be fetched from {self.address} "
                    f"({_reason(error)}); check the connection, or set BNKIT_DATA to a directory that holds it"
                ) from error


def cache_directory() -> Path:
    """The cache directory: ``BNKIT_DATA`` if it is set, otherwise the user's cache directory on this platform."""
    set_by_user = os.environ.get("BNKIT_DATA")
    return Path(set_by_user).expanduser() if set_by_user else platformdirs.user_cache_path("bnkit")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected a readable file") from error


def _reason(error: Exception) -> str:
    """The cause of a network error in a few words."""
    if isinstance(error, ValueError):
        return "what came has another SHA-256 than the published file"
    text = str(error.args[0]) if error.args else type(error).__name__
    return text if len(text) < 120 else f"{type(error).__name__}: {text[:100]}…"


class _Progress:
    """A progress bar with the interface that pooch expects, on standard error; hidden if that is not a terminal."""

    def __init__(self, description: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("fetching {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=stderr_console(), refresh_per_second=5)
        self._bar.disable = not self._bar.console.is_terminal
        self._task = self._bar.add_task(description, total=None)
        self.total = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, size: int) -> None:
        self._bar.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        self._bar.refresh()
