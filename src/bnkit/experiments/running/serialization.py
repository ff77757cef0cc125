"""Serialise the data that another process needs to train the runs of a plan.

The other process looks up the names in the experiment; objects that a caller passed are sent, including functions of a
notebook or a script. The bytes go from process to process and are never written to a file.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cloudpickle

from bnkit.data import DATA_SETS, DataSet
from bnkit.data.user_data import load_data
from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.networks import NetworkSource, network_sources
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.running.launch_request import Overrides
from bnkit.experiments.training.learning_task import Task, resolve_task
from bnkit.import_user_function import factory_modules
from bnkit.seeding import seeded


@dataclass(frozen=True)
class Payload:
    """A resolved experiment and the objects in it that have no name, for a process that can import the rest."""

    experiment: Experiment
    overrides: Overrides = Overrides()  # noqa: RUF009 - a tuple

    def pack(self, *others: object) -> bytes:
        """This payload, and the ``others`` with it, for ``unpack``.

        Raises:
            SettingsError: If an object cannot be sent.
        """
        return _dumps((self, *others))

    def components(self) -> Components:
        """The components of the runs.

        Raises:
            BnkitError: If an object that the experiment names is missing, or differs from that of the plan.
        """
        experiment, (networks, data, functions) = self.experiment, self.overrides
        resolved = experiment.settled
        assert resolved is not None
        if networks is None:
            with seeded("networks"):
                networks = network_sources(experiment.networks, experiment.arms)
        data = data if data is not None else load_data(experiment.data)
        data = data.reduced(experiment.train_examples, experiment.test_examples)
        task = resolve_task(experiment, data, functions)
        require_same_data(experiment.data, (resolved.data, data.digest))
        identities = tuple(source.identity for source in networks.values())
        if (identities, task.identity) != (resolved.networks, resolved.task):
            raise FactoryError(
                "the networks or a function are not those that the plan was made for; the files were changed in between, or "
                "differ from machine to machine: call again"
            )
        return Components(networks, data, task)


@dataclass(frozen=True)
class SelfContainedPayload:
    """A resolved experiment and all its components, for machines without the files that it names.

    Attributes:
        experiment: The resolved experiment.
        networks: The sources of all networks.
        data: The data; None for a data set that bnkit can fetch by name.
        task: The loss, the metric and the training step.
    """

    experiment: Experiment
    networks: Mapping[str, NetworkSource]
    data: DataSet | None
    task: Task

    @classmethod
    def of(cls, experiment: Experiment, components: Components) -> SelfContainedPayload:
        """The payload for ``experiment``, which is made from ``components``."""
        by_name = experiment.data in DATA_SETS
        return cls(experiment, components.networks, None if by_name else components.data, components.task)

    def pack(self, *others: object) -> bytes:
        """This payload, and the ``others`` with it, for ``unpack``, with the code of the files that the experiment names.

        Raises:
            SettingsError: If an object cannot be sent.
        """
        try:
            return self._dumps_with(factory_modules(), *others)
        except SettingsError:
            # A module that a file imports may hold something that cannot be sent (a lock); it may exist on the machine too.
            return self._dumps_with(factory_modules(with_imports=False), *others)

    def _dumps_with(self, modules: list[ModuleType], *others: object) -> bytes:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return _dumps((self, *others))
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)

    def components(self) -> Components:
        """The components of the runs.

        Raises:
            FactoryError: If the data set of that name differs on this machine.
        """
        experiment, data = self.experiment, self.data
        if data is None:
            data = load_data(experiment.data).reduced(experiment.train_examples, experiment.test_examples)
        resolved = experiment.settled
        assert resolved is not None
        if data.digest != resolved.data:
            raise FactoryError(f"the data set {experiment.data} is another one on {platform.node()}; call again")
        return Components(self.networks, data, self.task)


def require_same_data(name: str, digests: Iterable[str]) -> None:
    """Check that all processes have the same data.

    Args:
        name: The name of the data in the experiment.
        digests: The digests of the data in each process.

    Raises:
        FactoryError: If two digests differ.
    """
    if len(set(digests)) > 1:
        raise FactoryError(
            f"the data {name} are not those that the plan was made for: they differ between processes; a generator of random "
            "numbers of their own (numpy.random.default_rng(), random.Random()) needs a seed, and an order that follows from "
            "a set needs sorted(); or the files were changed in between, or differ from machine to machine: call again"
        )


def unpack(content: bytes) -> tuple[Any, ...]:
    """The payload that ``pack`` was called on, and the others.

    Raises:
        FactoryError: If an object that they refer to cannot be imported here.
    """
    try:
        unpacked: tuple[Any, ...] = cloudpickle.loads(content)
    except BnkitError:
        raise
    except Exception as error:
        raise FactoryError(
            f"the networks, data or functions cannot be loaded in another process ({type(error).__name__}: {error}); "
            "expected them to come from modules that it can import too"
        ) from error
    return unpacked


def _dumps(content: tuple[object, ...]) -> bytes:
    packed: bytes
    try:
        packed = cloudpickle.dumps(content)
    except Exception as error:
        raise SettingsError(
            f"the networks, data or functions cannot be sent to another process ({type(error).__name__}: {error}); "
            "expected functions, classes and tensors; or leave out `workers`"
        ) from error
    return packed
