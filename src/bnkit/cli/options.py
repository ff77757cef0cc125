"""``--workers``, for the commands that train."""

from __future__ import annotations

from typing import Annotated

from typer import Option

Workers = Annotated[
    str | None,
    Option(
        "--workers",
        metavar="N|auto",
        help="Train N runs at once, in a process each; by default one, in this process.",
    ),
]


def count_of(workers: str | None) -> int | str | None:
    """A number as such; what else was given as it is, for the library to take or to refuse."""
    return int(workers) if workers is not None and workers.isdecimal() else workers
