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
    "batch_size",
    "budget",
    "data",
    "engine",
    "exclude",
    "fail_on",
    "fresh",
    "ignore",
    "include",
    "inputs",
    "keep_checkpoints",
    "log",
    "margin",
    "max_seeds",
    "metric",
    "out",
    "per_layer_ignores",
    "preserve",
    "repetitions",
    "run_timeout",
    "seeds",
    "select",
    "sequential",
    "to",
    "until",
    "where",
    "workers",
    *_OPTIONS,
)
# What stands for a parameter or a call that the command line has no option for, but another word.
_WORDS = {
    "a `forward` that takes": "a factory of a model whose forward takes",
    "bnkit.recalibrate(model, batches)": "bnkit recalibrate",
    "bnkit.remove": "bnkit remove",
    "bnkit.add puts": "bnkit add puts",
}
_NAMED = re.compile(f"`({'|'.join(_PARAMETERS)})`")
# At the beginning of a message: the parameter and its value as Python shows it.
_ASSIGNED = re.compile(rf"^({'|'.join(_PARAMETERS)})=(?:'([^']*)'|([^\s;,]+))")


def with_options(message: str) -> str:
    """``message`` of the library in the words of the command line.

    Each parameter in backquotes becomes its option, and so does one that the message begins with, with its value.

    Examples:
        >>> with_options("results is in use; wait for it, or use another `out`")
        'results is in use; wait for it, or use another --out'
        >>> with_options("workers='many'; expected a whole number above 0, or auto")
        '--workers many; expected a whole number above 0, or auto'
    """
    for words, others in _WORDS.items():
        message = message.replace(words, others)
    message = _ASSIGNED.sub(lambda match: f"{_option(match[1])} {match[2] if match[3] is None else match[3]}", message)
    return _NAMED.sub(lambda match: _option(match[1]), message)


def _option(parameter: str) -> str:
    return _OPTIONS.get(parameter, "--" + parameter.replace("_", "-"))
