"""A process that trains the runs that it is sent, one after the other, and tells what happens."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any

import torch

from bnkit.errors import BnkitError
from bnkit.experiments.callbacks import Observer, Observers
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.preflight import try_out
from bnkit.experiments.records.record import Epoch, Record
from bnkit.experiments.records.results_folder import Folder
from bnkit.experiments.resolve import Materials
from bnkit.experiments.running.run import attempt
from bnkit.experiments.running.serialization import Parcel, unpack
from bnkit.experiments.training.optimizers import load_what_optimizers_need
from bnkit.memory import keep_freed_memory

# A step may take a tenth of a millisecond; a display is redrawn four times a second.
_SECONDS_BETWEEN_STEPS_TOLD = 0.25
# What is said instead of a run: try all networks out, with or without training them for a step.
TRY_OUT, TRY_OUT_UNTRAINED = "try out", "try out untrained"
# What is told besides the calls of an observer.
ASKS, READY, TRIED, STOPPED = "asks", "ready", "tried", "stopped"


def work(orders: Connection, number: int) -> None:
    """Obey ``orders`` until there are no more.

    Args:
        orders: First comes, when it was asked for, a packed parcel with the results folder, whether to keep checkpoints,
            and an observer to tell here; then runs. What happens goes out as ``(name, arguments)``.
        number: Of this worker, from 0: decides which GPU "cuda" means.
    """
    load_what_optimizers_need()
    try:
        orders.send((ASKS, ()))
        content: bytes = orders.recv()
        parcel, place, keep_checkpoints, inside = unpack(content)
        take_gpu(number)
        keep_freed_memory()
        _obey(orders, parcel, Folder(place), Observers([inside, Telling(orders)]), keep_checkpoints=keep_checkpoints)
    except BnkitError as error:
        orders.send((STOPPED, (error,)))
    except (EOFError, BrokenPipeError):
        pass  # nobody is there any more


def take_gpu(number: int) -> None:
    """Let "cuda" mean, in this process, the GPU whose turn it is for the worker of that number, if there are any."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _obey(orders: Connection, parcel: Parcel, folder: Folder, told: Observer, *, keep_checkpoints: bool) -> None:
    materials: Materials = parcel.materials()
    orders.send((READY, ()))
    begun = False
    while (order := orders.recv()) is not None:
        if order in (TRY_OUT, TRY_OUT_UNTRAINED):
            warnings = try_out(plan(parcel.experiment), materials, training=order == TRY_OUT)
            orders.send((TRIED, (warnings,)))
            continue
        run: Run = order
        if not begun:
            told.plan_started(Plan(parcel.experiment, (run,)), {})
            begun = True
        attempt(run, materials, folder, told, keep_checkpoints=keep_checkpoints)


class Telling(Observer):
    """Sends on what happens, as far as it can be sent: ``(name, arguments)``, a run by its number."""

    def __init__(self, orders: Connection) -> None:
        self._orders = orders
        self._examples, self._next = 0, 0.0

    def data_ready(self, run: Run, examples: int) -> None:
        self._tell("data_ready", run.number, examples)

    def run_started(self, run: Run, record: Record) -> None:
        self._tell("run_started", run.number, record)

    def batch_done(self, run: Run, epoch: int, examples: int) -> None:
        self._examples += examples
        if time.monotonic() >= self._next:
            self._tell("batch_done", run.number, epoch, self._examples)
            self._examples, self._next = 0, time.monotonic() + _SECONDS_BETWEEN_STEPS_TOLD

    def measuring(self, run: Run, what: str) -> None:
        self._tell("measuring", run.number, what)

    def epoch_done(self, run: Run, epoch: Epoch) -> None:
        self._examples = 0
        self._tell("epoch_done", run.number, epoch)

    def run_ended(self, run: Run, record: Record) -> None:
        self._tell("run_ended", run.number, record)

    def note(self, message: str) -> None:
        self._tell("note", message)

    def _tell(self, name: str, *arguments: Any) -> None:
        self._orders.send((name, arguments))
