"""What a comparison tells while it runs. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.record import Epoch, Record

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from bnkit.data import Splits


class Callback:
    """Somebody who watches; this one says nothing. A display overrides what it wants to know."""

    def writing_to(self, folder: Path) -> Callback:
        """This one, with ``folder`` in place of the results folder, if it writes to that: where another machine trains."""
        return self

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        """The runs begin; ``done`` are those that were complete already."""

    def data_ready(self, run: Run, examples: int) -> None:
        """A run will begin, and train on so many examples in every epoch. It may fail before it has begun."""

    def model_ready(self, run: Run, model: nn.Module, parts: Splits, epochs_done: int) -> None:
        """The network of ``run`` is built, or restored after so many epochs. To be looked at and left as it is.

        Not called where other processes train; nor is ``epoch_trained``.
        """

    def run_started(self, run: Run, record: Record) -> None:
        """A run begins, or goes on behind what ``record`` holds."""

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        """A step was taken, on so many examples. Called for every step: has to return at once."""

    def measuring(self, run: Run, what: str) -> None:
        """An epoch's steps are done, and ``what`` is measured next: "validation", "test" or "population statistics"."""

    def epoch_trained(self, run: Run, epoch: Epoch, model: nn.Module) -> None:
        """An epoch was measured and written down; ``model`` is to be left as it is. Called before ``epoch_done``."""

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        """An epoch was measured and written down."""

    def run_ended(self, run: Run, record: Record) -> None:
        """A run is finished, diverged or failed."""

    def report_started(self) -> None:
        """All runs have ended, and the report is written."""

    def note(self, message: str) -> None:
        """Something that the user should know, in one line."""


class CallbackList(Callback):
    """Several callbacks, told one after the other."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def writing_to(self, folder: Path) -> Callback:
        return CallbackList([callback.writing_to(folder) for callback in self._callbacks])

    def plan_started(self, plan: Plan, done: dict[Run, Record]) -> None:
        for callback in self._callbacks:
            callback.plan_started(plan, done)

    def data_ready(self, run: Run, examples: int) -> None:
        for callback in self._callbacks:
            callback.data_ready(run, examples)

    def model_ready(self, run: Run, model: nn.Module, parts: Splits, epochs_done: int) -> None:
        for callback in self._callbacks:
            callback.model_ready(run, model, parts, epochs_done)

    def run_started(self, run: Run, record: Record) -> None:
        for callback in self._callbacks:
            callback.run_started(run, record)

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        for callback in self._callbacks:
            callback.batch_done(run, epoch, examples)

    def measuring(self, run: Run, what: str) -> None:
        for callback in self._callbacks:
            callback.measuring(run, what)

    def epoch_trained(self, run: Run, epoch: Epoch, model: nn.Module) -> None:
        for callback in self._callbacks:
            callback.epoch_trained(run, epoch, model)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        for callback in self._callbacks:
            callback.epoch_done(run, epoch)

    def run_ended(self, run: Run, record: Record) -> None:
        for callback in self._callbacks:
            callback.run_ended(run, record)

    def report_started(self) -> None:
        for callback in self._callbacks:
            callback.report_started()

    def note(self, message: str) -> None:
        for callback in self._callbacks:
            callback.note(message)
