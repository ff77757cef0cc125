"""The live display of a comparison in a notebook: one output of the cell, which is updated in place. Needs no widgets."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from bnkit.comparison.live_table import LiveTable
from bnkit.experiments.callbacks import Event, PlanStarted
from bnkit.message_parts import plural

_SECONDS_BETWEEN_DRAWINGS = 0.5
# In characters: as wide as a cell of JupyterLab on a small screen.
_WIDTH, _HEIGHT = 90, 18
_STYLE = "white-space: pre; overflow-x: auto; font: .9em/1.3 Menlo, 'DejaVu Sans Mono', Consolas, monospace"


class NotebookTable(LiveTable):
    """The live table, drawn when an event arrives, at most twice a second: a training step takes no longer.

    Args:
        console: The console for notes, which become outputs of their own.
        rewrite: A function applied to each note.
    """

    def __init__(self, console: Console, rewrite: Callable[[str], str] = str) -> None:
        super().__init__(console, rewrite)
        self._canvas = Console(file=io.StringIO(), width=_WIDTH, height=_HEIGHT, force_jupyter=False, color_system=None)
        self._last = 0.0
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        now = time.monotonic()
        if isinstance(event, PlanStarted) or now - self._last >= _SECONDS_BETWEEN_DRAWINGS:
            self._last = now
            self.draw()

    def draw(self) -> None:
        """Show the present state."""
        with self._canvas.capture() as captured:
            self._canvas.print(self)
        self._show(captured.get())

    def end(self) -> None:
        """Replace the table by a line: what follows in the cell has the results."""
        if (plan := self._plan) is not None:
            self._show(f"{plan.experiment.name}: {self.estimate.runs_done} of {plural(len(plan), 'run')} done\n")

    def _show(self, text: str) -> None:
        from IPython.display import display

        content = {"text/plain": text, "text/html": f'<pre style="{_STYLE}">{html.escape(text)}</pre>'}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)


@contextmanager
def notebook_display(console: Console, rewrite: Callable[[str], str] = str) -> Iterator[NotebookTable]:
    """The live table below a cell. If the comparison is interrupted, or ends with an error, its last state stays there."""
    table = NotebookTable(console, rewrite)
    table.draw()
    try:
        yield table
    except BaseException:
        table.draw()
        raise
    table.end()
