"""Where results go: standard output, as wide as the terminal, or as wide as they are where there is none."""

from __future__ import annotations

import sys

from rich.console import Console

# A table in a file or a pipe is not cut at 80 columns.
_WIDTH_OFF_TERMINAL = 250


def results() -> Console:
    """The console for what was asked for."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)


def messages() -> Console:
    """The console for everything else: standard error."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH_OFF_TERMINAL, highlight=False)
