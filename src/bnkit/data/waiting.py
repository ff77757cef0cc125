"""What one sees on a terminal while data are made ready: on standard error, gone when it is done, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import track

from bnkit.console import messages

_Entry = TypeVar("_Entry")


def followed(entries: Iterable[_Entry], description: str) -> Iterable[_Entry]:
    """``entries``, with a bar while they are gone through."""
    console = messages()
    return track(entries, description, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def working(description: str) -> Iterator[None]:
    """A sign that something is being done, for what has no length."""
    with messages().status(description):  # shows nothing where there is no terminal
        yield
