"""Common behaviour of all commands: where output goes, and how arguments are expanded."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from bnkit.console import reserve_stdout
from bnkit.errors import SettingsError

_OPTION_WITH_VALUE = re.compile(r"(--[a-z][a-z-]*)=(.*)", re.DOTALL)


class Command(TyperCommand):
    """A command of the command line: while it runs, standard output is reserved for its results."""

    def invoke(self, ctx: Any) -> Any:
        with reserve_stdout():
            return super().invoke(ctx)


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with ``~`` expanded to the home folder, if the shell did not do it: ``--out=~/x``, ``~/net.py:make``.

    Raises:
        SettingsError: If the value of an option is empty, which as a path would silently mean the working directory.
    """
    words: list[str] = []
    for argument in arguments:
        option, value = _OPTION_WITH_VALUE.fullmatch(argument), argument
        if option is not None:
            value = option[2]
        named = option[1] if option is not None else words[-1] if words else ""
        if not value.strip() and named.startswith("--"):
            raise SettingsError(f"{named} is empty; expected a value, or leave it out")
        expanded = os.path.expanduser(value)  # noqa: PTH111 - of a part of a name that need be no path
        words.append(expanded if option is None else f"{option[1]}={expanded}")
    return words
