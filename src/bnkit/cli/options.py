"""Options that several commands share, and the names of options in the library's messages."""

from __future__ import annotations

import re
from typing import Annotated

from typer import Option

Workers = Annotated[
    str,
    Option(
        "--workers",
        metavar="N|auto",
        help="Train N runs at once, each in its own process. By default one per processor for small networks, else one.",
    ),
]

All = Annotated[bool, Option("--all", help="Show all runs and rows, not only the best.")]


def count_of(workers: str) -> int | str:
    """A number as an int; other text unchanged, for the library to check."""
    return int(workers) if workers.isdecimal() else workers


# The options of parameters of the library, where they are not the name with dashes.
_OPTIONS = {"example_inputs": "--input", "batches": "--data"}
_PARAMETERS = (
    "address",
    "budget",
    "data",
    "fresh",
    "inputs",
    "keep_checkpoints",
    "margin",
    "max_seeds",
    "metric",
    "out",
    "run_timeout",
    "until",
    "workers",
    *_OPTIONS,
)
_NAMED = re.compile(f"`({'|'.join(_PARAMETERS)})`")


def with_options(message: str) -> str:
    """``message``, with each parameter of the library in backquotes replaced by its option.

    Examples:
        >>> with_options("results is in use; wait for it, or use another `out`")
        'results is in use; wait for it, or use another --out'
    """
    return _NAMED.sub(lambda found: _OPTIONS.get(found[1], "--" + found[1].replace("_", "-")), message)
