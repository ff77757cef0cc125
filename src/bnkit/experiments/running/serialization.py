"""What another process needs to train the runs of a plan, as bytes.

What an experiment names is looked up again over there; what a caller handed over as objects goes along, functions of a
notebook or a script included. The bytes go from process to process and are never written to a file.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cloudpickle

from bnkit.data import DATA_SETS, DataSet
from bnkit.data.custom import load_data
from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.networks import NetworkSource, network_sources
from bnkit.experiments.resolve import Components
from bnkit.experiments.training.task import Task, resolve_task
from bnkit.factories import factory_modules
from bnkit.seeding import seeded


@dataclass(frozen=True)
class Payload:
    """An experiment that is settled, and what of it cannot be found by name.

    Attributes:
        experiment: Settled.
        networks, data, functions: As ``resolve.resolve_experiment`` takes them; None for what the experiment names.
    """

    experiment: Experiment
    networks: Mapping[str, NetworkSource] | None = None
    data: DataSet | None = None
    functions: Mapping[str, Any] | None = None

    def pack(self, *also: object) -> bytes:
        """This, and whatever else goes with it, as ``unpack`` takes it.

        Raises:
            SettingsError: Something cannot be sent.
        """
        return _packed((self, *also))

    def components(self) -> Components:
        """What the runs are made from.

        Raises:
            BnkitError: What the experiment names is not there any more, or is not what the plan was made for.
        """
        settled = self.experiment.settled
        assert settled is not None
        found = self.networks
        if found is None:
            with seeded("networks"):
                found = network_sources(self.experiment.networks, self.experiment.arms)
        data = self.data if self.data is not None else load_data(self.experiment.data)
        data = data.reduced(self.experiment.train_examples, self.experiment.test_examples)
        made = Components(found, data, resolve_task(self.experiment, data, self.functions))
        require_same_data(self.experiment.data, (settled.data, data.digest))
        identities = tuple(source.identity for source in found.values())
        if (identities, made.task.identity) != (settled.networks, settled.task):
            raise FactoryError(
                "the networks or a function are not those that the plan was made for; the files were changed in between, or "
                "differ from machine to machine: call again"
            )
        return made


@dataclass(frozen=True)
class SelfContainedPayload:
    """The materials themselves, for machines that do not have the files that the experiment names.

    Attributes:
        experiment: Settled.
        networks: All of them.
        data: None for a data set that bnkit fetches by name, wherever it is.
        task: What is learned.
    """

    experiment: Experiment
    networks: Mapping[str, NetworkSource]
    data: DataSet | None
    task: Task

    @classmethod
    def of(cls, experiment: Experiment, components: Components) -> SelfContainedPayload:
        """The payload for ``experiment``, whose materials these are."""
        by_name = experiment.data in DATA_SETS
        return cls(experiment, components.networks, None if by_name else components.data, components.task)

    def pack(self, *also: object) -> bytes:
        """This, and whatever else goes with it, as ``unpack`` takes it, with the code of the files that the experiment names.

        Raises:
            SettingsError: Something cannot be sent.
        """
        try:
            return self._packed_with(factory_modules(), *also)
        except SettingsError:
            # Something in a module behind a file (a lock) cannot be sent; such a module may be there too.
            return self._packed_with(factory_modules(with_imports=False), *also)

    def _packed_with(self, modules: list[ModuleType], *also: object) -> bytes:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return _packed((self, *also))
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)

    def components(self) -> Components:
        """What the runs are made from, there.

        Raises:
            FactoryError: The data set of that name is another one there.
        """
        data = self.data
        if data is None:
            named = load_data(self.experiment.data)
            data = named.reduced(self.experiment.train_examples, self.experiment.test_examples)
        settled = self.experiment.settled
        assert settled is not None
        if data.digest != settled.data:
            raise FactoryError(f"the data set {self.experiment.data} is another one on {platform.node()}; call again")
        return Components(self.networks, data, self.task)


def require_same_data(name: str, digests: Iterable[str]) -> None:
    """Refuse data that are not the same in every process.

    Args:
        name: What the experiment calls them.
        digests: Of the data in each process.

    Raises:
        FactoryError: Two digests differ.
    """
    if len(set(digests)) > 1:
        raise FactoryError(
            f"the data {name} are not those that the plan was made for: they differ between processes; a generator of random "
            "numbers of their own (numpy.random.default_rng(), random.Random()) needs a seed, and an order that follows from "
            "a set needs sorted(); or the files were changed in between, or differ from machine to machine: call again"
        )


def unpack(content: bytes) -> tuple[Any, ...]:
    """What ``pack`` was given, in the process that it was sent to.

    Raises:
        FactoryError: Something that it refers to cannot be imported here.
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


def _packed(content: tuple[object, ...]) -> bytes:
    packed: bytes
    try:
        packed = cloudpickle.dumps(content)
    except Exception as error:
        raise SettingsError(
            f"the networks, data or functions cannot be sent to another process ({type(error).__name__}: {error}); "
            "expected functions, classes and tensors; or leave out workers"
        ) from error
    return packed
