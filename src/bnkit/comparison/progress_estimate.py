"""How much of a plan is done during training, and a run's figures as text for a display."""

from __future__ import annotations

import time

from bnkit.experiments.callbacks import Callback
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record, Status
from bnkit.experiments.until_settings import ContrastLooks, StoppingRule
from bnkit.report.objective_metric import Objective

FIGURES = ("loss", "train", "test", "ex/s")


class ProgressEstimate:
    """How much of a plan is done, and how long the rest will take."""

    def __init__(self, plan: Plan, done: dict[Run, Record]) -> None:
        self.runs, self.runs_done = len(plan), len(done)
        self.epochs = sum(run.epochs for run in plan)
        self.epochs_done = sum(run.epochs for run in done)
        self.share_of_epoch = 0.0
        self._began, self._epochs_at_start = time.monotonic(), float(self.epochs_done)
        self._experiment = plan.experiment

    def is_of(self, plan: Plan) -> bool:
        """Whether ``plan`` belongs to the same call."""
        return plan.experiment is self._experiment

    def keep_pace_of(self, before: ProgressEstimate) -> None:
        """Keep the clock of ``before``: the plan has grown, but the call is the same."""
        self._began, self._epochs_at_start = before._began, before._epochs_at_start

    def skip(self, epochs: int) -> None:
        """Exclude epochs from the pace: an earlier call did them, or they are no longer needed."""
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

    Examples:
        >>> duration(75), duration(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressCounter(Callback):
    """Base class of the displays: estimates the progress, for any number of runs at once."""

    estimate: ProgressEstimate

    def __init__(self) -> None:
        self.looks: dict[tuple[object, ...], ContrastLooks] = {}
        self.rule = StoppingRule()
        self.examples: dict[int, int] = {}  # examples per epoch, by run
        self.seen: dict[int, int] = {}  # examples done in the present epoch, by run
        self._counted: dict[int, int] = {}  # epochs counted so far, by run

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        before = getattr(self, "estimate", None)
        self.estimate = ProgressEstimate(plan, done)
        if before is not None and before.is_of(plan):
            self.estimate.keep_pace_of(before)
        else:
            self.looks = {}
        self.examples, self.seen, self._counted = {}, {}, {}

    def look_taken(self, contrast: ContrastLooks, rule: StoppingRule) -> None:
        self.looks = {**self.looks, contrast.key: contrast}  # a new one: the drawing thread reads the old one
        self.rule = rule

    def data_ready(self, run: Run, examples: int) -> None:
        self.examples[run.number] = examples

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        self.seen[run.number] = self.seen.get(run.number, 0) + examples
        self._share()

    def run_started(self, run: Run, record: Record) -> None:
        # If the run starts again after its worker died, epochs that were counted before are not counted again.
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
        # It may have been restarted, or have ended before it began.
        self.estimate.skip(len(record.epochs) - self._counted.pop(run.number, 0))
        if record.status is not Status.FINISHED:
            self.estimate.skip(run.epochs - len(record.epochs))

    def _forget_steps(self, run: Run) -> None:
        self.seen.pop(run.number, None)
        self._share()

    def _share(self) -> None:
        self.estimate.share_of_epoch = sum(
            seen / self.examples[number] for number, seen in self.seen.items() if self.examples.get(number)
        )


def figures_of(run: Run, epoch: Epoch) -> tuple[str, ...]:
    """The texts of ``FIGURES``."""
    objective = Objective.of(run.task)
    measured = (
        "–" if value is None else objective.text(value) for value in (objective.training(epoch), objective.test(epoch))
    )
    rate = "–" if epoch.examples_per_second is None else f"{epoch.examples_per_second:,.0f}"
    return ("nan" if epoch.loss is None else f"{epoch.loss:.3g}", *measured, rate)


def status_of(record: Record) -> str:
    """How the run ended; empty if it has not ended."""
    return record.status.value if record.status else ""


def cause_of(record: Record) -> str:
    """The last line of the traceback, which names the exception; empty without one."""
    lines = record.traceback.strip().splitlines()
    return f": {lines[-1]}" if lines else ""
