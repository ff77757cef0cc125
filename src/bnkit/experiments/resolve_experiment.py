"""Resolve an experiment before any run: look up names, decide "auto", and make the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.data import DataSet, Examples, Splits, prepare
from bnkit.data.user_data import load_data
from bnkit.errors import SettingsError
from bnkit.experiments.experiment import Experiment, ResolvedExperiment
from bnkit.experiments.integer_inputs import are_indices, example_of
from bnkit.experiments.networks import NetworkSource, network_sources
from bnkit.experiments.networks.batch_norm_settings import BATCH_NORM_SETTINGS, ineffective
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.run_cost import RunCosts
from bnkit.experiments.training.learning_task import Task, resolve_task
from bnkit.experiments.training.losses import is_binary_loss
from bnkit.import_user_function import is_factory_name, refuse_clashes
from bnkit.seeding import seeded


@dataclass
class Components:
    """The networks, the data and the task of a plan.

    Attributes:
        networks: The sources of the networks by key.
        data: The data set.
        task: The loss, the metric and the training step.
    """

    networks: Mapping[str, NetworkSource]
    data: DataSet
    task: Task = field(default_factory=Task)
    _parts: dict[tuple[object, ...], Splits] = field(default_factory=dict)
    _indices: bool | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the data are in memory, so that ``num_workers`` has no effect."""
        return isinstance(self.data.train, Examples)

    @cached_property
    def costs(self) -> RunCosts:
        """The estimated durations of its runs."""
        return RunCosts(self.build, self.example, len(self.data.train))

    def default_threads(self, plan: Plan) -> int:
        """The default number of threads of each run of ``plan``: one if the networks are small, else as many as torch uses."""
        return 1 if self.costs.are_small(plan) else torch.get_num_threads()

    def parts(self, run: Run) -> Splits:
        """The splits that ``run`` uses; prepared once for runs with the same settings."""
        key = (run.settings.trainset, run.validation, run.settings.device, run.settings.num_workers)
        if key not in self._parts:
            self._parts = {key: prepare(self.data, *key, indices=self._are_indices(run))}
        return self._parts[key]

    def build(self, run: Run) -> nn.Module:
        """The untrained network of ``run``, on the CPU.

        Raises:
            BnkitError: As ``NetworkSource.build``.
        """
        source, data, outputs = self.networks[run.network.key], self.data, self.data.out_features
        if data.classes is not None and is_binary_loss(run.task.loss):
            outputs = data.target_shape[0] if data.target_shape else 1
        return source.build(data.input_shape, outputs, run.settings, run.seed, self.example(run))

    def example(self, run: Run) -> Tensor:
        """Two inputs to try networks on, not normalised."""
        return example_of(self.data, indices=self._are_indices(run))

    def _are_indices(self, run: Run) -> bool:
        """Whether any network uses the inputs as indices; decided once for all runs."""
        if self._indices is None:
            sources = self.networks.values()
            self._indices = any(are_indices(source, self.data, run.settings, run.seed) for source in sources)
        return self._indices


def resolve_experiment(
    experiment: Experiment,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
    before: ResolvedExperiment | None = None,
    threads: int | None = None,
    processes: int = 1,
) -> tuple[Plan, Components]:
    """The plan of ``experiment``, and the components of its runs.

    Args:
        experiment: The experiment.
        networks, data, functions: Replace those that ``experiment`` names; functions by "loss", "metric",
            "training_step" and "augmentation".
        before: How the experiment in the results folder was resolved: its threads and its device are kept, so that
            results do not change if another machine resumes it.
        threads: The threads of each run if neither the experiment nor ``before`` says; None for ``Components.default_threads``.
        processes: The number of processes that train one run together.

    Raises:
        BnkitError: If something that it names cannot be loaded or used.
    """
    with seeded(
        "networks"
    ):  # modules may draw random numbers when they are imported, for example for a split of the data
        sources = networks if networks is not None else network_sources(experiment.networks, experiment.arms)
    data = data if data is not None else load_data(experiment.data)
    data = data.reduced(experiment.train_examples, experiment.test_examples)
    data.refuse_unlearnable()
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    if before is not None and (before.device == "cpu" or torch.cuda.is_available()):
        automatic = before.device
    for device in experiment.grid.device:
        _check_device(device)
    task = resolve_task(experiment, data, functions)
    parts = (experiment.data, experiment.loss, experiment.metric, experiment.training_step, experiment.augmentation)
    refuse_clashes(name for name in (*experiment.networks, *parts) if is_factory_name(name))
    threads = experiment.threads or (before.threads if before else None) or threads
    settled = ResolvedExperiment(
        threads=threads or 1,
        device=automatic,
        data=data.digest,
        networks=tuple(source.identity for source in sources.values()),
        task=task.identity,
        processes=processes,
    )
    components = Components(sources, data, task)
    # The other seeds have no influence on the resolved values, and a plan may have tens of thousands of runs.
    of_one_seed = plan(experiment.model_copy(update={"settled": settled, "seeds": experiment.seeds[:1], "until": None}))
    further: dict[str, Any] = {"ignored": _ignored_settings(of_one_seed, components)}
    if threads is None:
        further["threads"] = components.default_threads(of_one_seed)
    settled = settled.model_copy(update=further)
    return plan(experiment.model_copy(update={"settled": settled})), components


def _ignored_settings(planned: Plan, components: Components) -> dict[str, tuple[str, ...]]:
    """By network, those settings of batch norm that the grid sets and that have no effect on it.

    Raises:
        SettingsError: If one has an effect on none.
    """
    grid = planned.experiment.grid
    asked = [key for key in BATCH_NORM_SETTINGS if any(value != "default" for value in getattr(grid, key))]
    if not asked:
        return {}
    # With an eps that is set, where one is: some layers of other libraries cannot be given one.
    first = {
        run.network.key: run
        for run in reversed(planned.runs)
        if "bn_eps" not in asked or run.settings.bn_eps != "default"
    }
    by_network = {key: ineffective(components.build(run)) for key, run in first.items()}
    for key in asked:
        if all(key in of_network for of_network in by_network.values()):
            needs = "" if key == "bn_eps" else " that moves running statistics"
            raise SettingsError(
                f"grid: {key}, and none of the networks {', '.join(by_network)} has a batch norm{needs}; expected one, or no {key}"
            )
    ignored = {network: tuple(key for key in asked if key in of_network) for network, of_network in by_network.items()}
    return {network: keys for network, keys in ignored.items() if keys}


def _check_device(name: str) -> None:
    if not name.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise SettingsError(f"grid: device={name}, but this machine has no usable GPU; expected auto or cpu")
    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise SettingsError(f"grid: device={name}, but this machine has {torch.cuda.device_count()} GPUs, from cuda:0")
