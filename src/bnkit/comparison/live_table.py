"""The live display of a comparison in training: a bar, and a line for each of the latest runs.

It uses Rich's live area and bar. The rest of ``rich.progress`` does not fit: with a task for each run the display would grow,
narrow columns shrink to "…", and its time left is estimated from the last 30 seconds, in which a long epoch makes no step and
an epoch recorded by an earlier call makes many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from bnkit.comparison.progress_estimate import (
    FIGURES,
    ProgressCounter,
    ProgressEstimate,
    cause_of,
    figures_of,
    status_of,
)
from bnkit.comparison.undecided_table import looks_table
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.message_parts import plural
from bnkit.report.objective_metric import Objective
from bnkit.report.tables import format_setting
from bnkit.text_table import Column, Table, wrap

_MOST_ROWS, _MOST_LOOKS, _WIDEST = 12, 6, 100
# Lines other than the rows: the bar, the present activity, the header, the number of hidden runs, and a free line.
_OTHER_LINES = 5
_RUNNING = "running"
_STATUS_WIDTH = len("measuring")


class LiveTable(ProgressCounter):
    """A bar, and a line for each of the latest runs. A separate thread draws it periodically; a training step only counts.

    Its height is constant from the first run on: waiting runs have a line, and a last line counts the hidden runs.
    """

    def __init__(self, console: Console, rewrite: Callable[[str], str] = str) -> None:
        super().__init__()
        self._console, self._rewrite = console, rewrite
        self._plan: Plan | None = None
        self._keys: tuple[str, ...] = ()
        # By the run's number: ended runs, in the order in which they ended, and running ones.
        self._ended: dict[int, tuple[Run, Epoch | None, str]] = {}
        self._running: dict[int, tuple[Run, Epoch | None, str]] = {}
        self._measuring: dict[int, str] = {}
        self._at_the_end = ""

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        super().plan_started(plan, done)
        self._ended = {run.number: (run, record.last, status_of(record)) for run, record in done.items()}
        self._running, self._measuring, self._at_the_end = {}, {}, ""
        self._keys = _keys(plan)
        self._plan = plan

    def run_started(self, run: Run, record: Record) -> None:
        super().run_started(run, record)
        self._measuring.pop(run.number, None)
        self._running[run.number] = (run, record.last, _RUNNING)

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        super().batch_done(run, epoch, examples)
        self._measuring.pop(run.number, None)

    def measuring(self, run: Run, what: str) -> None:
        self._measuring[run.number] = what

    def report_started(self) -> None:
        self._at_the_end = "writing the report"

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        super().epoch_done(run, epoch)
        self._measuring.pop(run.number, None)
        self._running[run.number] = (run, epoch, _RUNNING)

    def run_ended(self, run: Run, record: Record) -> None:
        super().run_ended(run, record)
        self._measuring.pop(run.number, None)
        self._running.pop(run.number, None)
        self._ended[run.number] = (run, record.last, status_of(record))
        if record.status is Status.FAILED:
            self.note(f"run {run.number} failed{cause_of(record)}")

    def note(self, message: str) -> None:
        self._console.print(Text(f"note: {self._rewrite(message)}"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the table; the drawing thread calls this."""
        plan, width = self._plan, options.max_width
        if plan is None:
            yield Text("preparing …", style="dim")
            return
        estimate = self.estimate
        share = (estimate.epochs_done + estimate.share_of_epoch) / max(1, estimate.epochs)
        head = Grid.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", max_width=width // 2)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        left = "" if estimate.left == "?" else f", {estimate.left} left"
        bar = ProgressBar(total=1.0, completed=share)
        head.add_row(Text(plan.experiment.name, "bold"), bar, Text(f"{100 * share:.0f} %{left}", "bold"))
        yield from console.render(head, options.update(width=min(width, _WIDEST), height=None))
        doing, *more = wrap(self._doing(estimate), width - 2)
        yield Text(doing + (" …" if more else ""), style="dim", no_wrap=True)
        looks = list(self._looks(plan, width))
        yield from looks
        yield from self._rows(plan, width, max(3, min(_MOST_ROWS, console.size.height - _OTHER_LINES - len(looks))))

    def _looks(self, plan: Plan, width: int) -> Iterator[Text]:
        """If seeds are added, a line for each contrast, with its interval at the last look."""
        table = looks_table(self.looks.values(), self.rule, Objective.of(plan.task))
        before = -2
        for number, line in table.lines(width) if table.rows else ():
            # The header may have several lines; a row has one.
            if number < 0 or (number != before and number < _MOST_LOOKS):
                is_decided = number >= 0 and table.rows[number][-1] != "open"
                yield Text(line, "bold" if number < 0 or is_decided else "", no_wrap=True, overflow="crop")
            before = number
        if len(table.rows) > _MOST_LOOKS:
            yield Text(f"… {len(table.rows) - _MOST_LOOKS:,} more", "dim")

    def _doing(self, estimate: ProgressEstimate) -> str:
        running = list(self._running)
        at_once = f", {len(running)} at once" if len(running) > 1 else ""
        runs, epochs = plural(estimate.runs, "run"), f"{estimate.epochs_done} of {estimate.epochs}"
        counts = f"{estimate.runs_done} of {runs} done{at_once}, epoch {epochs}"
        state = self._at_the_end
        if not state and len(running) == 1:
            seen = self.seen.get(running[0])
            measured = self._measuring.get(running[0])
            state = f"measuring: {measured}" if measured else f"{plural(seen, 'example')} into the next" if seen else ""
        return f"{counts}, {state}" if state else counts

    def _rows(self, plan: Plan, width: int, room: int) -> Iterator[Text]:
        """As many rows as fit: the latest ended runs, then the running ones, then the next ones."""
        ended, running = list(self._ended.values()), list(self._running.values())  # the training thread changes them
        known = {run.number for run, _, _ in (*ended, *running)}
        waiting, room = len(plan) - len(known), min(room, len(plan))
        shown = running[-room:]
        coming = min(waiting, max(room - len(shown) - len(ended), min(2, room - len(shown))))
        past = ended[len(ended) - (room - len(shown) - coming) :]
        following = [(run, None, "waiting") for run in islice((run for run in plan if run.number not in known), coming)]
        entries = [*past, *shown, *following]
        earlier, later = len(ended) - len(past) + len(running) - len(shown), waiting - coming
        names = _short_names(plan, width)
        cells = [self._cells(run, epoch, status, names) for run, epoch, status in entries]
        before = -2
        for number, line in Table(_columns(plan, names, self._keys), cells).lines(width):
            if number != before:  # one line each, however narrow
                style = "bold" if number < 0 else "" if entries[number][2] == _RUNNING else "dim"
                yield Text(line, style, no_wrap=True, overflow="crop")
            before = number
        if hidden := [f"{count:,} {where}" for count, where in ((earlier, "before"), (later, "to come")) if count]:
            yield Text(f"… {', '.join(hidden)}", "dim")

    def _cells(self, run: Run, epoch: Epoch | None, status: str, names: Mapping[str, str]) -> tuple[str, ...]:
        done = epoch.epoch if epoch else 0
        if status == _RUNNING:
            seen, of = self.seen.get(run.number, 0), self.examples.get(run.number, 0)
            is_measured = run.number in self._measuring
            status = "measuring" if is_measured else f"{100 * (done + (seen / of if of else 0)) / run.epochs:.0f} %"
        settings = (format_setting(getattr(run.settings, key)) for key in self._keys)
        figures = figures_of(run, epoch) if epoch else ("–",) * len(FIGURES)
        return (
            str(run.number),
            names[run.network.key],
            *settings,
            str(run.seed),
            f"{done}/{run.epochs}",
            *figures,
            status,
        )


def _short_names(plan: Plan, width: int) -> dict[str, str]:
    """The networks' names, shortened to leave room for epoch and status: to the part after the last dot, or cut."""
    room = width - len(f"{plan.experiment.epochs}/{plan.experiment.epochs}") - _STATUS_WIDTH - 4
    fitting = {}
    for name in plan.networks:
        short = name if len(name) <= room else f"…{name.rpartition('.')[2]}"
        fitting[name] = short if len(short) <= room else f"{name[: max(1, room - 1)]}…"
    return fitting


def _keys(plan: Plan) -> tuple[str, ...]:
    """The settings with a column: the learning rate, and those that vary."""
    return tuple(dict.fromkeys(("lr", *plan.varying)))


def _columns(plan: Plan, names: Mapping[str, str], keys: Sequence[str]) -> tuple[Column, ...]:
    """The columns, wide enough for every run of the plan, so that their positions are constant."""
    epochs = f"{plan.experiment.epochs}/{plan.experiment.epochs}"
    settings = [
        Column(key, 2, width=max(len(format_setting(v)) for v in getattr(plan.experiment.grid, key))) for key in keys
    ]
    value = 5 if plan.task.is_accuracy else 9
    return (
        Column("run", 1, width=len(str(len(plan)))),
        Column("network", width=max(map(len, names.values())), is_text=True),
        *settings,
        *(
            Column("seed", 4, width=max(len(str(seed)) for seed in plan.seeds)),
            Column("epoch", width=len(epochs)),
        ),
        *(
            Column("loss", 5, width=7),
            Column("train", 6, width=value),
            Column("test", 3, width=value),
            Column("ex/s", 7, width=7),
        ),
        Column("", width=_STATUS_WIDTH, is_text=True),
    )
