"""The plan: every run of an experiment, with everything that its results depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import DEFAULT_TASK, Experiment, NetworkIdentity, ResolvedExperiment, TaskIdentity
from bnkit.experiments.run_settings import Settings

# The version of the record of a run. If the meaning of a result changes, so does this, and with it the hash of every run.
FORMAT = 1
_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
# Settings added later: at their default they do not enter the hash of a run, so that earlier runs are found.
_LATER_SETTINGS = frozenset({"width", "init_scale", "order", "memory_format", "bn_eps", "bn_momentum"})


@dataclass(frozen=True)
class Run:
    """One training: a network, a seed, and a point of the grid.

    Attributes:
        number: Its position in the plan, from 1.
        network: Its network.
        seed: Seeds its initial weights and its batches.
        settings: The point of the grid, with no "auto" left.
        content: Everything that its results depend on, as plain values.
        run_id: The first 12 hexadecimal digits of the SHA-256 of ``content``.
    """

    number: int
    network: NetworkIdentity
    seed: int
    settings: Settings
    epochs: int
    validation: float
    drop_last: bool
    threads: int
    data: str
    data_digest: str
    task: TaskIdentity = DEFAULT_TASK
    processes: int = 1
    observe: int = 0
    landscape: int = 0
    evaluate_training: bool = False
    population_every_epoch: bool = False

    def drops_last(self, examples: int) -> bool:
        """Whether the smaller last batch is left out; one of a single example always is."""
        return self.drop_last or (self.settings.batch_size > 1 and examples % self.settings.batch_size == 1)

    @cached_property
    def content(self) -> dict[str, Any]:
        """Everything that the results of this run depend on."""
        content = {
            "format": FORMAT,
            "network": self.network.identity,
            "kernel": self.network.kernel,
            "seed": self.seed,
            "settings": _hashed_settings(self.settings, own_dropout=self.network.own_dropout),
            "epochs": self.epochs,
            "validation": self.validation,
            "drop_last": self.drop_last,
            "threads": self.threads,
            "data": self.data_digest,
        }
        # Added later: the default does not enter the hash, so that earlier runs are found.
        if self.task != DEFAULT_TASK:
            content["task"] = self.task.model_dump()
        if self.processes > 1:
            content["processes"] = self.processes
        instrumentation = {
            "observe": self.observe,
            "landscape": self.landscape,
            "evaluate_training": self.evaluate_training,
            "population_every_epoch": self.population_every_epoch,
        }
        return {**content, **{name: asked for name, asked in instrumentation.items() if asked}}

    @cached_property
    def run_id(self) -> str:
        """The name of this run's folder."""
        return hashlib.sha256(_CANONICAL_JSON.encode(self.content).encode()).hexdigest()[:12]


# Once for all seeds and networks of a point: a plan may have tens of thousands of runs.
@lru_cache(maxsize=2**16)
def _hashed_settings(settings: Settings, *, own_dropout: bool) -> dict[str, Any]:
    """The part of ``settings`` that enters the hash of a run."""
    default, dumped = Settings(), settings.model_dump()
    if dumped["dropout"] == default.dropout and not own_dropout:
        dumped["dropout"] = 0.0  # as in earlier versions, which had no "default"
    return {
        name: value
        for name, value in dumped.items()
        if name not in _LATER_SETTINGS or value not in (None, getattr(default, name))
    }


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment, in the order in which they are trained.

    Attributes:
        experiment: The experiment, with ``settled``.
        runs: One for each seed, point of the grid and network. Seeds are outermost, so that one full repetition is done
            before the next begins; networks are innermost, so that pairs are adjacent.
    """

    experiment: Experiment
    runs: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def networks(self) -> tuple[str, ...]:
        """The keys of the networks in their order."""
        return tuple(network.key for network in _resolved(self.experiment).networks)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def task(self) -> TaskIdentity:
        """The task of every run."""
        return _resolved(self.experiment).task

    @property
    def varying(self) -> tuple[str, ...]:
        """The keys of the grid that take more than one value."""
        return tuple(
            key
            for key in self.experiment.grid.explicit_keys
            if len({getattr(run.settings, key) for run in self.runs} - {None}) > 1
        )


def plan(experiment: Experiment) -> Plan:
    """The plan of ``experiment``, whose ``settled`` must be set; with ``until``, all runs that it may need.

    Raises:
        SettingsError: If settings contradict each other.
    """
    settled, until = _resolved(experiment), experiment.until
    seeds = experiment.seeds if until is None else until.seeds_after(experiment.seeds)
    if until is not None:
        _refuse_undecidable(experiment, settled)
    points = [_resolve_point(point, settled) for point in experiment.grid.points()]
    of_network = [_effective_points(points, settled.ignored.get(network.key, ())) for network in settled.networks]
    choices = [
        (seed, point, network)
        for seed in seeds
        for of_point in zip(*of_network, strict=True)
        for point, network in zip(of_point, settled.networks, strict=True)
        if point is not None
    ]
    runs = tuple(
        Run(
            number=number,
            network=network,
            seed=seed,
            settings=point,
            epochs=experiment.epochs,
            validation=experiment.validation,
            drop_last=experiment.drop_last,
            threads=settled.threads,
            data=experiment.data,
            data_digest=settled.data,
            task=settled.task,
            processes=settled.processes,
            observe=experiment.observe,
            landscape=experiment.landscape,
            evaluate_training=experiment.evaluate_training,
            population_every_epoch=experiment.population_every_epoch,
        )
        for number, (seed, point, network) in enumerate(choices, start=1)
    )
    return Plan(experiment, runs)


def _refuse_undecidable(experiment: Experiment, settled: ResolvedExperiment) -> None:
    """Raise an error if no rule can add seeds to ``experiment`` until it is decided."""
    if len(set(experiment.grid.lr)) > 1 and experiment.validation == 0:
        raise SettingsError(
            "until: several learning rates and no validation part to drop them by; expected validation above 0, or one lr"
        )
    architectures = [network.key.rpartition(".")[0] for network in settled.networks]
    if len(set(architectures)) == len(architectures):
        raise SettingsError(
            f"until: {', '.join(network.key for network in settled.networks)} alone, so that there is nothing to decide; expected "
            "two networks that are compared"
        )


def _resolve_point(point: Settings, settled: ResolvedExperiment) -> Settings:
    if point.momentum and point.optimizer != "sgd":
        raise SettingsError(
            f"grid: momentum={point.momentum} with optimizer={point.optimizer}; expected optimizer sgd, or momentum 0"
        )
    if point.device == "auto":
        return point.model_copy(update={"device": settled.device})
    return point


def _effective_points(points: Sequence[Settings], ignored: Sequence[str]) -> list[Settings | None]:
    """``points`` with the settings ``ignored`` as None, and None instead of a point that then equals an earlier one.

    So one run serves all values of a setting that has no effect on its network.
    """
    if not ignored:
        return list(points)
    first: dict[Settings, int] = {}
    changed = [point.model_copy(update=dict.fromkeys(ignored)) for point in points]
    return [point if first.setdefault(point, index) == index else None for index, point in enumerate(changed)]


def _resolved(experiment: Experiment) -> ResolvedExperiment:
    if experiment.settled is None:
        raise SettingsError(f"experiment {experiment.name} is not settled; call resolve_experiment(experiment) first")
    return experiment.settled
