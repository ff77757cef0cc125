"""Where the runs of a plan are trained, and how many at once: this process, processes of this machine, a Ray cluster."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bnkit.console import warn
from bnkit.errors import SettingsError
from bnkit.experiments.callbacks import Callback, CallbackList
from bnkit.experiments.experiment import Experiment, ResolvedExperiment, parse_experiment
from bnkit.experiments.plan import Plan, plan
from bnkit.experiments.records.results_folder import ResultsFolder
from bnkit.experiments.running.worker_count import count_missing_runs, min_worker_count, worker_count_for
from bnkit.experiments.running.worker_handle import refuse_nested_workers, started_workers

if TYPE_CHECKING:
    from bnkit.data import DataSet
    from bnkit.experiments.networks import NetworkSource
    from bnkit.experiments.resolve import Components


class Overrides(NamedTuple):
    """What a caller handed over in place of what the experiment names; None for what it does not."""

    networks: Mapping[str, NetworkSource] | None = None
    data: DataSet | None = None
    functions: Mapping[str, Any] | None = None


class PreparedExperiment(NamedTuple):
    """A plan whose networks were tried out, what its runs are made from, and what trains them all.

    Attributes:
        writes: Whether this process writes to the folder; another one may.
    """

    plan: Plan
    components: Components
    train: Callable[[], None]
    writes: bool = True


@dataclass(frozen=True)
class Launcher:
    """Where runs are trained.

    Attributes:
        workers: How many at once, in a process each: a number or "auto"; None for one, in this process.
        run_timeout: Seconds after which a run is ended, as failed.
        engine: "local" or "ray".
        address: Of the Ray cluster.
        tries_training: Whether networks are trained for a step before any run; without, one that cannot be trained ends its
            runs as failed.

    Raises:
        SettingsError: One of them means nothing, or they contradict each other.
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
    def threads(self) -> int:
        """The threads of each run, if nobody says; 0 for as many as torch uses.

        One for any number of workers and machines, so that the figures do not depend on it.
        """
        return 1 if self.workers is not None or self.engine != "local" else 0

    @contextmanager
    def prepared(
        self,
        experiment: Experiment,
        given: Overrides,
        folder: ResultsFolder,
        callback: Callback,
        *,
        before: ResolvedExperiment | None = None,
        keep_checkpoints: bool = False,
        beside: Sequence[Callback] = (),
    ) -> Iterator[PreparedExperiment]:
        """Settle ``experiment``, try it out, and have ready what trains it. Writes nothing; the processes end behind it.

        Args:
            experiment: What is asked for.
            given: In place of what it names.
            folder: Where it will be written.
            callback: Told what happens.
            before: What was settled when ``folder`` was begun; None to begin anew.
            keep_checkpoints: Keep the weights after every epoch.
            beside: Callbacks that look at models: they are told where the models are.

        Raises:
            BnkitError: Something that was given means nothing here.
        """
        refuse_nested_workers()
        if under_torchrun():
            prepared = self._together
        elif self.engine == "ray":
            prepared = self._on_cluster
        elif self.workers is None and self.run_timeout is None:
            prepared = self._here
        else:
            prepared = self._in_workers
        with prepared(experiment, given, folder, callback, before, keep_checkpoints, beside) as made:
            usual = experiment.threads or self.threads or _threads_here()
            settled = made.plan.experiment.settled
            if before is not None and settled is not None and before.threads == settled.threads != usual:
                callback.note(
                    f"{folder.path} was begun with {before.threads} threads, and goes on with them; --fresh begins anew"
                )
            for remark in made.components.data.remarks():
                callback.note(remark)
            yield made

    @contextmanager
    def _here(
        self,
        experiment: Experiment,
        given: Overrides,
        folder: ResultsFolder,
        callback: Callback,
        before: ResolvedExperiment | None,
        keep_checkpoints: bool,
        beside: Sequence[Callback],
    ) -> Iterator[PreparedExperiment]:
        from bnkit.experiments.running.sequential import train_all

        planned, components = prepare(experiment, self, before, given)
        told = CallbackList([*beside, callback])
        yield PreparedExperiment(
            planned,
            components,
            partial(train_all, planned, components, folder, told, keep_checkpoints=keep_checkpoints),
        )

    @contextmanager
    def _in_workers(
        self,
        experiment: Experiment,
        given: Overrides,
        folder: ResultsFolder,
        callback: Callback,
        before: ResolvedExperiment | None,
        keep_checkpoints: bool,
        beside: Sequence[Callback],
    ) -> Iterator[PreparedExperiment]:
        asked, networks = self.workers or 1, None if given.networks is None else len(given.networks)
        at_least = min_worker_count(asked, experiment, experiment.threads or self.threads or 1, networks)
        # They load torch while it is loaded here. Where a folder was begun, there may be nothing left to train.
        with started_workers(at_least if before is None else 0) as early:
            from bnkit.experiments.resolve import resolve_experiment
            from bnkit.experiments.running.pool import WorkerPool
            from bnkit.experiments.running.serialization import Payload

            planned, components = resolve_experiment(experiment, *given, before, self.threads)
            count = worker_count_for(asked, planned, callback)
            payload = Payload(planned.experiment, *given)
            with WorkerPool(
                count,
                payload,
                folder,
                timeout=self.run_timeout,
                keep_checkpoints=keep_checkpoints,
                inside=CallbackList(beside),
                early=early,
            ) as workers:
                left = len(planned) if before is None else count_missing_runs(planned, folder, count)
                for warning in workers.check_plan(left, training=self.try_training):
                    warn(warning)
                yield PreparedExperiment(planned, components, partial(workers.train_all, planned, callback))

    @contextmanager
    def _on_cluster(
        self,
        experiment: Experiment,
        given: Overrides,
        folder: ResultsFolder,
        callback: Callback,
        before: ResolvedExperiment | None,
        keep_checkpoints: bool,
        beside: Sequence[Callback],
    ) -> Iterator[PreparedExperiment]:
        from bnkit.experiments.running.ray_cluster import RayCluster
        from bnkit.experiments.running.serialization import SelfContainedPayload

        planned, components = prepare(experiment, self, before, given)
        content = SelfContainedPayload.of(planned.experiment, components).pack(CallbackList(beside))
        most = self.workers if isinstance(self.workers, int) else None
        with RayCluster(
            self.address, content, folder, most=most, timeout=self.run_timeout, keep_checkpoints=keep_checkpoints
        ) as cluster:
            yield PreparedExperiment(planned, components, partial(cluster.train_all, planned, callback))

    @contextmanager
    def _together(
        self,
        experiment: Experiment,
        given: Overrides,
        folder: ResultsFolder,
        callback: Callback,
        before: ResolvedExperiment | None,
        keep_checkpoints: bool,
        beside: Sequence[Callback],
    ) -> Iterator[PreparedExperiment]:
        from bnkit.experiments.running.serialization import require_same_data
        from bnkit.experiments.running.torchrun import train_together
        from bnkit.experiments.training.distributed import process_group

        if replace(self, try_training=True) != Launcher():
            raise SettingsError("workers, run_timeout or engine under torchrun; expected none of them with it")
        with process_group() as processes:
            leads = processes.rank == 0
            _, components = prepared = prepare(experiment, self, before, given, processes.count)
            # What process 0 has settled holds for all: on their machines other things may stand.
            text = processes.broadcast(prepared[0].experiment.to_toml() if leads else None)
            planned = plan(parse_experiment(tomllib.loads(text), "process 0"))
            require_same_data(experiment.data, processes.all_gather(components.data.digest))
            told = CallbackList([*beside, callback]) if leads else Callback()
            train = partial(
                train_together, planned, components, folder, told, processes, keep_checkpoints=keep_checkpoints
            )
            yield PreparedExperiment(planned, components, train, leads)


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun, or what sets the same variables, has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR"} <= os.environ.keys()


def is_nonzero_rank() -> bool:
    """Whether another process than this one writes and prints."""
    return under_torchrun() and int(os.environ["RANK"]) > 0


def prepare(
    experiment: Experiment,
    launcher: Launcher,
    before: ResolvedExperiment | None = None,
    given: Overrides | None = None,
    processes: int = 1,
) -> tuple[Plan, Components]:
    """The plan of ``experiment`` and its materials, each network tried out once. Writes nothing.

    Raises:
        BnkitError: Something that was given means nothing here.
    """
    from bnkit.experiments.preflight import check_plan
    from bnkit.experiments.resolve import resolve_experiment

    planned, components = resolve_experiment(experiment, *(given or Overrides()), before, launcher.threads, processes)
    for warning in check_plan(planned, components, training=launcher.try_training):
        if not is_nonzero_rank():
            warn(warning)
    return planned, components


def _threads_here() -> int:
    import torch

    return torch.get_num_threads()
