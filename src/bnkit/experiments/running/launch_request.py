"""Requests to train an experiment: what, where and how. Needs no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bnkit.console import warn
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import Experiment, ResolvedExperiment
from bnkit.experiments.plan import Plan
from bnkit.experiments.records.results_folder import ResultsFolder

if TYPE_CHECKING:
    from bnkit.data import DataSet
    from bnkit.experiments.networks import NetworkSource
    from bnkit.experiments.resolve_experiment import Components


class Overrides(NamedTuple):
    """Objects that a caller passed instead of those that the experiment names; None to use the name."""

    networks: Mapping[str, NetworkSource] | None = None
    data: DataSet | None = None
    functions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LaunchOptions:
    """Where and how runs are trained.

    Attributes:
        workers: The number of processes that train runs at once, or "auto" to choose it; None trains in this process.
        run_timeout: Seconds after which a run is ended as failed; it requires at least one worker.
        engine: "local" or "ray".
        address: The address of the Ray cluster.
        try_training: Whether each network is trained for one step before any run; without, a network that cannot be trained
            ends its runs as failed.

    Raises:
        SettingsError: If an option is invalid, or two contradict each other.
    """

    workers: int | str | None = None
    run_timeout: float | None = None
    engine: str = "local"
    address: str | None = None
    try_training: bool = True

    def __post_init__(self) -> None:
        is_count = isinstance(self.workers, int) and not isinstance(self.workers, bool) and self.workers >= 1
        if not (self.workers is None or self.workers == "auto" or is_count):
            raise SettingsError(f"workers={self.workers!r}; expected a whole number above 0, or auto")
        seconds = self.run_timeout
        if seconds is not None and not 0 < seconds < math.inf:
            raise SettingsError(f"run_timeout={seconds!r}; expected seconds, above 0")
        if self.engine not in ("local", "ray"):
            raise SettingsError(f"engine={self.engine!r}; expected local or ray")
        if self.engine == "local" and self.address is not None:
            raise SettingsError(f"address={self.address!r} with engine local; expected engine ray with it")

    @property
    def threads(self) -> int | None:
        """The threads of each run, unless the experiment says; None for as many as its network is worth.

        One for any number of workers and machines, so that the figures do not depend on it. With a timeout too: no network
        is tried in this process, which it could hang.
        """
        is_given = isinstance(self.workers, int) or self.run_timeout is not None or self.engine != "local"
        return 1 if is_given else None


@dataclass(frozen=True)
class RunRequest:
    """An experiment to train.

    Attributes:
        experiment: The requested experiment.
        overrides: Objects that replace those it names.
        folder: The results folder.
        options: Where and how it is trained.
        resolved_before: The resolved values of the experiment already in ``folder``; None to begin from scratch.
        keep_checkpoints: Whether to keep the weights after every epoch.
        worker_callbacks: Callbacks that look at models: they run in the process that trains.
        asked: The runs of the plan that are requested so far; a rule may choose them by earlier results.
    """

    experiment: Experiment
    overrides: Overrides
    folder: ResultsFolder
    options: LaunchOptions
    resolved_before: ResolvedExperiment | None = None
    keep_checkpoints: bool = False
    worker_callbacks: tuple[Callback, ...] = ()
    asked: Callable[[Plan, ResultsFolder], Plan] = lambda plan, _: plan


class Train(Protocol):
    """Trains every incomplete run of ``plan`` in the folder, except ``given_up``; the caller holds the folder's lock."""

    def __call__(self, plan: Plan, given_up: Collection[str] = ()) -> None:
        """Train.

        Args:
            plan: All runs of the prepared plan, or some.
            given_up: The ids of runs that failed in this call: they are not tried once more.
        """


class PreparedExperiment(NamedTuple):
    """A plan whose networks were tried once, its components, and the function that trains it.

    Attributes:
        components: None if all runs are complete, and the components were not loaded.
        writes: Whether this process writes to the folder; under torchrun, process 0 does.
    """

    plan: Plan
    components: Components | None
    train: Train
    writes: bool = True


def prepare(
    experiment: Experiment,
    options: LaunchOptions,
    overrides: Overrides | None = None,
    resolved_before: ResolvedExperiment | None = None,
    processes: int = 1,
) -> tuple[Plan, Components]:
    """The plan of ``experiment`` and its components, each network tried once in this process. Does not write files.

    Raises:
        BnkitError: If an argument is invalid here.
    """
    from bnkit.experiments.resolve_experiment import resolve_experiment

    overrides = overrides or Overrides()
    plan, components = resolve_experiment(experiment, *overrides, resolved_before, options.threads, processes)
    try_once(plan, components, options)
    return plan, components


def try_once(plan: Plan, components: Components, options: LaunchOptions) -> None:
    """Try each network once in this process, and print warnings about it.

    Raises:
        BnkitError: As ``preflight.check_plan``.
    """
    from bnkit.experiments.preflight import check_plan

    for warning in check_plan(plan, components, training=options.try_training):
        if not is_nonzero_rank():
            warn(warning)


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun, or another launcher with the same variables, has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


def is_nonzero_rank() -> bool:
    """Whether another process than this one writes and prints."""
    return under_torchrun() and int(os.environ["RANK"]) > 0
