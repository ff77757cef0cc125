"""What Ctrl-C says while runs train."""

from __future__ import annotations

from pathlib import Path

from typer import Exit

from bnkit.console import stderr_console

_INTERRUPTED = 130


def exit_after_interruption(folder: Path) -> Exit:
    """The end of a command that was interrupted, after a line about what is in its results folder."""
    folder = folder.expanduser()
    is_begun = any(any(folder.glob(file)) for file in ("experiment.toml", "*/experiment.toml"))
    stderr_console().print_sentences(
        f"stopped; completed runs are in {folder}, and the same command resumes from there"
        if is_begun
        else "stopped before the first run; the same command starts again"
    )
    return Exit(_INTERRUPTED)
