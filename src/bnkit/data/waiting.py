"""What one sees on a terminal while data are made ready: on standard error, gone when it is done, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import track

from bnkit.console import stderr_console

_Entry = TypeVar("_Entry")


def track_progress(entries: Iterable[_Entry], description: str) -> Iterable[_Entry]:
    """``entries``, with a bar while they are gone through."""
    console = stderr_console()
    return track(entries, description, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def show_status(description: str) -> Iterator[None]:
    """A sign that something is being done, for what has no length."""
    with stderr_console().status(description):  # shows nothing where there is no terminal
        yield
