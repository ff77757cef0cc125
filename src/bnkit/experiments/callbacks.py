"""The events sent while runs train, and the callbacks that receive them. Needs no torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Epoch, Record
from bnkit.experiments.until_settings import ContrastLooks, StoppingRule

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from bnkit.data import Splits


@dataclass(frozen=True)
class Event:
    """Something that happened; the ``method`` of a callback that handles it has its name: ``epoch_done`` for ``EpochDone``."""

    method: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.method = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


EventHandler = Callable[[Event], None]


@dataclass(frozen=True)
class PlanStarted(Event):
    """The runs begin; ``done`` are those that were complete before."""

    plan: Plan
    done: dict[Run, Record]


@dataclass(frozen=True)
class DataReady(Event):
    """A run is about to begin, on this many training examples an epoch. It may fail before it begins."""

    run: Run
    examples: int


@dataclass(frozen=True)
class ModelReady(Event):
    """The network of ``run`` is built, or restored after ``epochs_done`` epochs; a callback must not change it.

    Sent only in the process that trains the run, as is ``EpochTrained``.
    """

    run: Run
    model: nn.Module
    parts: Splits
    epochs_done: int


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, or resumes after the epochs in ``record``."""

    run: Run
    record: Record


@dataclass(frozen=True)
class BatchDone(Event):
    """A step was taken, on this many examples. Sent after every step: a callback has to return at once."""

    run: Run
    epoch: int
    examples: int


@dataclass(frozen=True)
class Measuring(Event):
    """The steps of an epoch are done; ``what`` is measured next: "validation", "test" or "population statistics"."""

    run: Run
    what: str


@dataclass(frozen=True)
class EpochTrained(Event):
    """An epoch was measured and recorded; a callback must not change ``model``. Sent before ``EpochDone``."""

    run: Run
    epoch: Epoch
    model: nn.Module


@dataclass(frozen=True)
class EpochDone(Event):
    """An epoch was measured and recorded."""

    run: Run
    epoch: Epoch


@dataclass(frozen=True)
class RunEnded(Event):
    """A run finished, diverged or failed."""

    run: Run
    record: Record


@dataclass(frozen=True)
class LookTaken(Event):
    """With ``until``: the state of one contrast after a round of seeds; its last look may have decided it.

    ``contrast.looks`` includes the earlier looks, also those of earlier calls that this one resumes.
    """

    contrast: ContrastLooks
    rule: StoppingRule


@dataclass(frozen=True)
class SeedsEnded(Event):
    """With ``until``: no more seeds are added.

    ``reason`` is "decided", "max_seeds", "budget", or "hopeless": more seeds would not decide the open contrasts.
    """

    contrasts: tuple[ContrastLooks, ...]
    reason: str


@dataclass(frozen=True)
class ReportStarted(Event):
    """All runs have ended, and the report is written next."""


@dataclass(frozen=True)
class Note(Event):
    """One line that the user should read."""

    message: str


class Callback:
    """Base class for callbacks: a subclass has a method for each event that it handles, which takes the event's fields.

    Examples:
        >>> class PrintNotes(Callback):
        ...     def note(self, message):
        ...         print(message)
        >>> PrintNotes()(Note("run 2 starts again"))
        run 2 starts again
    """

    def __call__(self, event: Event) -> None:
        """Handle ``event``."""
        notify(self, event)

    def writing_to(self, folder: Path) -> Callback:
        """This callback with ``folder`` as the results folder, for a run that trains on another machine."""
        return self


class CallbackList:
    """Sends each event to several callbacks, one after the other."""

    def __init__(self, *callbacks: object) -> None:
        self._callbacks = list(map(_handler, callbacks))

    def __call__(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)


def notify(callback: object, event: Event) -> None:
    """Call the method of ``callback`` for ``event``, if it has one."""
    method = getattr(callback, event.method, None)
    if method is not None:
        method(*vars(event).values())


def _handler(callback: Any) -> EventHandler:
    """The function to call with every event: the object itself, or, if it is not callable, a dispatcher to its methods."""
    return callback if callable(callback) else functools.partial(notify, callback)
