"""The progress display of a comparison: a live table on a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bnkit.comparison.live_table import LiveTable
from bnkit.comparison.notebook_progress import notebook_display
from bnkit.comparison.progress_estimate import FIGURES, ProgressCounter, cause_of, figures_of
from bnkit.comparison.undecided_table import describe_look
from bnkit.console import stderr_console
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.experiments.running.launch_request import is_nonzero_rank
from bnkit.experiments.until_settings import ContrastLooks, StoppingRule
from bnkit.message_parts import plural
from bnkit.report.objective_metric import Objective
from bnkit.report.tables import format_setting

_REDRAWS_PER_SECOND = 4
# Plain lines are for logs, so they are at least this far apart, except for the last epoch of a run.
_SECONDS_BETWEEN_LINES = 5.0
# Messages for why no more seeds are added.
_REASONS = {
    "decided": "every comparison is decided",
    "max_seeds": "the largest number of seeds is trained",
    "budget": "the budget ends; the same call resumes",
    "hopeless": "more would not decide the open comparisons",
}


class PlainLines(ProgressCounter):
    """An occasional line, for a log or a pipe; with ``every_epoch``, a line for each epoch."""

    def __init__(self, console: Console, *, every_epoch: bool = False, rewrite: Callable[[str], str] = str) -> None:
        super().__init__()
        self._console, self._rewrite = console, rewrite
        self._interval = 0.0 if every_epoch else _SECONDS_BETWEEN_LINES
        self._last = -_SECONDS_BETWEEN_LINES
        self._objective: Objective | None = None

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        super().plan_started(plan, done)
        self._objective = Objective.of(plan.task)
        self._line(f"{plan.experiment.name}: {plural(len(plan), 'run')}, {len(done):,} done before")

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        super().epoch_done(run, epoch)
        now = time.monotonic()
        if now - self._last >= self._interval or epoch.epoch == run.epochs:
            self._last = now
            figures = "  ".join(f"{name} {value}" for name, value in zip(FIGURES, figures_of(run, epoch), strict=True))
            self._line(
                f"{_name(run, self.estimate.runs)}  epoch {epoch.epoch} of {run.epochs}  {figures}  left {self.estimate.left}"
            )

    def run_ended(self, run: Run, record: Record) -> None:
        super().run_ended(run, record)
        if record.status is not Status.FINISHED and record.status is not None:
            self._line(f"{_name(run, self.estimate.runs)}  {record.status.value}{cause_of(record)}")

    def look_taken(self, contrast: ContrastLooks, rule: StoppingRule) -> None:
        super().look_taken(contrast, rule)
        if contrast.looks and self._objective is not None:
            self._line(describe_look(contrast, rule, self._objective))

    def seeds_ended(self, contrasts: tuple[ContrastLooks, ...], reason: str) -> None:
        self._line(f"no more seeds: {_REASONS[reason]}")

    def note(self, message: str) -> None:
        self._line(f"note: {message}")

    def _line(self, text: str) -> None:
        self._console.print(Text(self._rewrite(text)), soft_wrap=True)


@contextmanager
def progress_display(
    console: Console, *, quiet: bool = False, verbose: bool = False, rewrite: Callable[[str], str] = str
) -> Iterator[Callback]:
    """A callback that suits ``console``: live on a terminal and in a notebook, lines elsewhere, no output if ``quiet``.

    Args:
        console: The console to show it on.
        quiet: Show nothing.
        verbose: Show a line for every epoch.
        rewrite: A function applied to each message before it is shown.
    """
    if quiet:
        yield Callback()
    elif console.is_jupyter:
        with notebook_display(console, rewrite) as drawn:
            yield drawn
    elif console.is_terminal and not verbose:
        table = LiveTable(console, rewrite)
        with Live(table, console=console, refresh_per_second=_REDRAWS_PER_SECOND, transient=True):
            yield table
    else:
        yield PlainLines(console, every_epoch=verbose, rewrite=rewrite)


@contextmanager
def shown_progress(progress: bool | None) -> Iterator[Callback]:
    """The display for the argument ``progress`` of a call; None shows one on a terminal and in a notebook only.

    Raises:
        SettingsError: ``progress`` is neither a bool nor None.
    """
    if progress is not None and not isinstance(progress, bool):
        raise SettingsError(f"progress={progress!r}; expected True, False, or None: on a terminal and in a notebook")
    console = stderr_console()
    is_shown = console.is_terminal or console.is_jupyter if progress is None else progress
    with progress_display(console, quiet=not is_shown or is_nonzero_rank()) as callback:
        yield callback


def _name(run: Run, runs: int) -> str:
    return f"run {run.number} of {runs}  {run.network.key}  lr {format_setting(run.settings.lr)}  seed {run.seed}"
