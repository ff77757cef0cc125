"""Options that several commands have, and how messages of the library speak of options."""

from __future__ import annotations

import re
from typing import Annotated

from typer import Option

Workers = Annotated[
    str,
    Option(
        "--workers",
        metavar="N|auto",
        help="Train N runs at once, in a process each. By default a run for each processor where networks are small, else one by one.",
    ),
]

All = Annotated[bool, Option("--all", help="Show all runs and rows, not only the best.")]


def count_of(workers: str) -> int | str:
    """A number as such; what else was given as it is, for the library to take or to refuse."""
    return int(workers) if workers.isdecimal() else workers


# What a parameter of the library is on the command line, where that is not its name with dashes.
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
    """``message``, with the option in place of each parameter of the library that stands in backquotes.

    Example:
        >>> with_options("results is in use; wait for it, or use another `out`")
        'results is in use; wait for it, or use another --out'
    """
    return _NAMED.sub(lambda found: _OPTIONS.get(found[1], "--" + found[1].replace("_", "-")), message)
