"""What one sees while a comparison trains: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bnkit.cli.options import with_options
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.record import Epoch, Record, Status
from bnkit.report.objective import Objective
from bnkit.report.tables import format_setting

if TYPE_CHECKING:
    pass

_REDRAWS_PER_SECOND = 4
# Plain lines are for logs: no more often than this, but for the last epoch of a run.
_SECONDS_BETWEEN_LINES = 5.0


class ProgressEstimate:
    """How much of a plan is done, and how long the rest will take."""

    def __init__(self, plan: Plan, done: dict[Run, Record]) -> None:
        self.runs, self.runs_done = len(plan), len(done)
        self.epochs = sum(run.epochs for run in plan)
        self.epochs_done = sum(run.epochs for run in done)
        self.share_of_epoch = 0.0
        self._began, self._epochs_at_start = time.monotonic(), float(self.epochs_done)

    def skip(self, epochs: int) -> None:
        """Count epochs that were done in an earlier call, or need not be done."""
        self.epochs_done += epochs
        self._epochs_at_start += epochs

    @property
    def left(self) -> str:
        """The time left as ``m:ss``, from the pace so far."""
        done = self.epochs_done + self.share_of_epoch
        trained = done - self._epochs_at_start
        if trained <= 0:
            return "?"
        return duration((time.monotonic() - self._began) / trained * (self.epochs - done))


def duration(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss``.

    Example:
        >>> duration(75), duration(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _ProgressCounter(Callback):
    """Keeps the clock, whatever number of runs are trained at once; what the displays share."""

    estimate: ProgressEstimate

    def __init__(self) -> None:
        self._examples: dict[int, int] = {}  # of an epoch of each run
        self._seen: dict[int, int] = {}  # of these, in the epoch in progress
        self._counted: dict[int, int] = {}  # epochs of each run that the clock knows of

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        self.estimate = ProgressEstimate(plan, done)

    def data_ready(self, run: Run, examples: int) -> None:
        self._examples[run.number] = examples

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        self._seen[run.number] = self._seen.get(run.number, 0) + examples
        self._share()

    def run_started(self, run: Run, record: Record) -> None:
        # Once more after its worker died: what was counted before is not counted again.
        self.estimate.skip(len(record.epochs) - self._counted.get(run.number, 0))
        self._counted[run.number] = len(record.epochs)
        self._forget_steps(run)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self.estimate.epochs_done += 1
        self._counted[run.number] = self._counted.get(run.number, 0) + 1
        self._forget_steps(run)

    def run_ended(self, run: Run, record: Record) -> None:
        self.estimate.runs_done += 1
        self._forget_steps(run)
        # It may have begun anew, or ended before it began.
        self.estimate.skip(len(record.epochs) - self._counted.pop(run.number, 0))
        if record.status is not Status.FINISHED:
            self.estimate.skip(run.epochs - len(record.epochs))

    def _forget_steps(self, run: Run) -> None:
        self._seen.pop(run.number, None)
        self._share()

    def _share(self) -> None:
        self.estimate.share_of_epoch = sum(
            seen / self._examples[number] for number, seen in self._seen.items() if self._examples.get(number)
        )


class PlainLines(_ProgressCounter):
    """A line now and then, for a log or a pipe; with ``every_epoch``, a line for each."""

    def __init__(self, console: Console, *, every_epoch: bool = False) -> None:
        super().__init__()
        self._console = console
        self._interval = 0.0 if every_epoch else _SECONDS_BETWEEN_LINES
        self._last = -_SECONDS_BETWEEN_LINES

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        super().plan_started(plan, done)
        self._line(f"{plan.experiment.name}: {len(plan)} runs, {len(done)} done before")

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        super().epoch_done(run, epoch)
        now = time.monotonic()
        if now - self._last >= self._interval or epoch.epoch == run.epochs:
            self._last = now
            figures = "  ".join(f"{name} {value}" for name, value in zip(_FIGURES, _figures(run, epoch), strict=True))
            self._line(
                f"{_name(run, self.estimate.runs)}  epoch {epoch.epoch} of {run.epochs}  {figures}  left {self.estimate.left}"
            )

    def run_ended(self, run: Run, record: Record) -> None:
        super().run_ended(run, record)
        if record.status is not Status.FINISHED and record.status is not None:
            self._line(f"{_name(run, self.estimate.runs)}  {record.status.value}{_cause(record)}")

    def note(self, message: str) -> None:
        self._line(f"note: {with_options(message)}")

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class LiveTable(_ProgressCounter):
    """A table with one line a run, redrawn by time. Drawing is done by a thread of its own; a step only counts."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._title = ""
        self._lines: dict[int, tuple[Run, Epoch | None, str]] = {}
        self._doing: dict[int, str] = {}
        self._at_the_end = ""

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        super().plan_started(plan, done)
        self._title = plan.experiment.name

    def run_started(self, run: Run, record: Record) -> None:
        super().run_started(run, record)
        self._lines[run.number] = (run, record.last, "running")

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        super().batch_done(run, epoch, examples)
        self._doing.pop(run.number, None)

    def measuring(self, run: Run, what: str) -> None:
        self._doing[run.number] = f"measuring: {what}"

    def report_started(self) -> None:
        self._at_the_end = "writing the report"

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        super().epoch_done(run, epoch)
        self._doing.pop(run.number, None)
        self._lines[run.number] = (run, epoch, "running")

    def run_ended(self, run: Run, record: Record) -> None:
        super().run_ended(run, record)
        self._doing.pop(run.number, None)
        self._lines[run.number] = (run, record.last, record.status.value if record.status else "")
        if record.status is Status.FAILED:
            self.note(f"run {run.number} failed{_cause(record)}")

    def note(self, message: str) -> None:
        self._console.print(Text(f"note: {with_options(message)}"))

    def _state(self, running: list[int]) -> str:
        if self._at_the_end or len(running) != 1:
            return self._at_the_end
        seen = self._seen.get(running[0])
        return self._doing.get(running[0], f"{seen:,} examples into the next" if seen else "")

    def __rich__(self) -> Group:
        """What is drawn: called by the drawing thread."""
        if not hasattr(self, "estimate"):
            return Group(Text("preparing …", style="dim"))
        estimate = self.estimate
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("run", "network", "lr", "seed", "epoch", *_FIGURES, "left"):
            table.add_column(name, justify="left" if name in ("network", "left") else "right", no_wrap=True)
        room = max(3, self._console.size.height - 5)
        lines = list(self._lines.values())  # at once: the thread that trains adds to them
        running = [line for line in lines if line[2] == "running"]
        ended = [line for line in lines if line[2] != "running"]
        for run, epoch, status in [*ended[max(0, len(ended) + len(running) - room) :], *running][-room:]:
            figures = _figures(run, epoch) if epoch else ("–",) * len(_FIGURES)
            progress = f"{epoch.epoch if epoch else 0} of {run.epochs}"
            state = estimate.left if status == "running" else status
            cells = (
                str(run.number),
                run.network.key,
                format_setting(run.settings.lr),
                str(run.seed),
                progress,
                *figures,
                state,
            )
            table.add_row(*map(Text, cells), style="" if status == "running" else "dim")
        numbers = [run.number for run, _, _ in running]
        where = (
            f"{estimate.runs_done} of {estimate.runs} runs done, {len(numbers)} at once"
            if len(numbers) > 1
            else f"run {min(estimate.runs_done + 1, estimate.runs)} of {estimate.runs}"
        )
        head = f"{self._title}: {where}, epoch {estimate.epochs_done} of {estimate.epochs}, {estimate.left} left" + (
            f" ({state})" if (state := self._state(numbers)) else ""
        )
        return Group(Text(head, style="bold"), table)


@contextmanager
def progress_display(console: Console, *, quiet: bool, verbose: bool) -> Iterator[Callback]:
    """An observer that suits ``console``: live on a terminal, lines elsewhere, nothing if ``quiet``."""
    if quiet:
        yield Callback()
    elif console.is_terminal and not verbose:
        table = LiveTable(console)
        with Live(table, console=console, refresh_per_second=_REDRAWS_PER_SECOND, transient=True):
            yield table
    else:
        yield PlainLines(console, every_epoch=verbose)


_FIGURES = ("loss", "train", "test", "ex/s")


def _figures(run: Run, epoch: Epoch) -> tuple[str, ...]:
    objective = Objective.of(run.task)
    measured = (
        "–" if value is None else objective.text(value) for value in (objective.training(epoch), objective.test(epoch))
    )
    rate = "–" if epoch.examples_per_second is None else f"{epoch.examples_per_second:,.0f}"
    return ("nan" if epoch.loss is None else f"{epoch.loss:.3g}", *measured, rate)


def _name(run: Run, runs: int) -> str:
    return f"run {run.number} of {runs}  {run.network.key}  lr {format_setting(run.settings.lr)}  seed {run.seed}"


def _cause(record: Record) -> str:
    """The last line of a traceback, which names the exception."""
    lines = record.traceback.strip().splitlines()
    return f": {with_options(lines[-1])}" if lines else ""
