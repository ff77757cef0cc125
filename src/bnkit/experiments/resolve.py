"""From what a user asked for to what will be run: names looked up, "auto" decided, before any run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.data import DataSet, Examples, Splits, prepare
from bnkit.data.custom import load_data
from bnkit.errors import SettingsError
from bnkit.experiments.experiment import Experiment, ResolvedExperiment
from bnkit.experiments.indices import are_indices, example_of
from bnkit.experiments.networks import NetworkSource, network_sources
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.training.losses import is_binary_loss
from bnkit.experiments.training.task import Task, resolve_task
from bnkit.factories import is_factory_name, refuse_clashes
from bnkit.seeding import seeded


@dataclass
class Components:
    """What the runs of a plan are made from.

    Attributes:
        networks: By key.
        data: The data set.
        task: What is learned.
    """

    networks: Mapping[str, NetworkSource]
    data: DataSet
    task: Task = field(default_factory=Task)
    _parts: dict[tuple[object, ...], Splits] = field(default_factory=dict)
    _indices: bool | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the data are held in memory, so that ``num_workers`` has nothing to load."""
        return isinstance(self.data.train, Examples)

    def parts(self, run: Run) -> Splits:
        """The data as ``run`` trains on them; prepared once for all runs that agree."""
        key = (run.settings.trainset, run.validation, run.settings.device, run.settings.num_workers)
        if key not in self._parts:
            self._parts = {key: prepare(self.data, *key, indices=self._are_indices(run))}
        return self._parts[key]

    def build(self, run: Run) -> nn.Module:
        """The network of ``run`` before it is trained, on the CPU.

        Raises:
            BnkitError: As ``NetworkSource.build``.
        """
        source, data, outputs = self.networks[run.network.key], self.data, self.data.out_features
        if data.classes is not None and is_binary_loss(run.task.loss):
            outputs = data.target_shape[0] if data.target_shape else 1
        return source.build(data.input_shape, outputs, run.settings, run.seed, self.example(run))

    def example(self, run: Run) -> Tensor:
        """Two inputs as the networks get them, but not normalised: what they are tried on."""
        return example_of(self.data, indices=self._are_indices(run))

    def _are_indices(self, run: Run) -> bool:
        """Whether any network looks something up by the inputs; asked once for all runs, which are given the same data."""
        if self._indices is None:
            found = self.networks.values()
            self._indices = any(are_indices(source, self.data, run.settings, run.seed) for source in found)
        return self._indices


def resolve_experiment(
    experiment: Experiment,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
    before: ResolvedExperiment | None = None,
    threads: int = 0,
    processes: int = 1,
) -> tuple[Plan, Components]:
    """The plan of ``experiment``, and what its runs are made from.

    Args:
        experiment: What was asked for.
        networks, data, functions: Instead of those that ``experiment`` names; functions by "loss", "metric",
            "training_step" and "augmentation".
        before: What was settled when the results folder was begun: threads and the meaning of device "auto" are kept,
            so that figures do not change in the middle because another machine goes on.
        threads: Of each run, where neither the experiment nor ``before`` says; 0 for as many as torch uses now.
        processes: How many train one run together.

    Raises:
        BnkitError: Something that it names is not there, or cannot be used.
    """
    with seeded("networks"):  # what they import may draw: data that are split in a module, when it is first imported
        found = networks if networks is not None else network_sources(experiment.networks, experiment.arms)
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
    settled = ResolvedExperiment(
        threads=experiment.threads or (before.threads if before else 0) or threads or torch.get_num_threads(),
        device=automatic,
        data=data.digest,
        networks=tuple(source.identity for source in found.values()),
        task=task.identity,
        processes=processes,
    )
    return plan(experiment.model_copy(update={"settled": settled})), Components(found, data, task)


def _check_device(name: str) -> None:
    if not name.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise SettingsError(f"grid: device={name}, but this machine has no usable GPU; expected auto or cpu")
    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise SettingsError(f"grid: device={name}, but this machine has {torch.cuda.device_count()} GPUs, from cuda:0")
