"""Where results and messages go: as wide as the terminal, or as wide as they are where there is none."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import NoReturn

from rich.console import Console

# A table in a file or a pipe is not cut at 80 columns.
_WIDTH_OFF_TERMINAL = 250
# 128 + SIGPIPE, as a shell reports it.
_PIPE_CLOSED = 141


class _Console(Console):
    """Rich's, but for its exit status where nobody reads: 1 means something else here."""

    def on_broken_pipe(self) -> None:
        end_for_want_of_a_reader()


def end_for_want_of_a_reader() -> NoReturn:
    """End the process: whoever read our output has gone, and nothing more can be said, not even by Python at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_PIPE_CLOSED)


def results() -> Console:
    """The console for what was asked for."""
    return _Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


@cache
def messages() -> Console:
    """The console for everything else: standard error. One for the process, so that what moves on it does not collide."""
    return _Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


def warn(message: str) -> None:
    """Print what a user should know, whatever else is asked for: on standard error."""
    messages().print(f"warning: {message}", soft_wrap=True, markup=False, highlight=False)
