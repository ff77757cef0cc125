"""Where a network comes from: always a factory, so that no weight of one run leaks into the next."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.experiment import NetworkIdentity
from bnkit.experiments.identity import identity_of
from bnkit.experiments.networks.arms import Arm, arm_called
from bnkit.experiments.networks.initialisation import initialise
from bnkit.experiments.networks.lenet import lenet
from bnkit.experiments.networks.mlp import mlp, residual_mlp
from bnkit.experiments.networks.resnet import resnet
from bnkit.experiments.networks.simple_cnn import simple_cnn
from bnkit.experiments.networks.two_cnn import two_cnn
from bnkit.experiments.randomness import initial_weights
from bnkit.experiments.settings import Settings
from bnkit.experiments.targets import find, is_target

# What a factory of somebody's own may ask for by name.
_OPTIONS = ("activation", "depth", "width", "dropout")


@dataclass(frozen=True)
class Architecture:
    """A network that bnkit knows.

    Attributes:
        build: Makes it from an arm, the shape of one input, the number of outputs (of classes, or of values to
            predict), and the settings.
        options: Which of "activation", "depth", "width" and "dropout" it follows.
    """

    build: Callable[[Arm, tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]


ARCHITECTURES: dict[str, Architecture] = {
    "two-cnn": Architecture(two_cnn, frozenset({"activation", "dropout"})),
    "lenet": Architecture(lenet, frozenset({"activation", "dropout"})),
    "simple-cnn": Architecture(simple_cnn, frozenset({"activation", "dropout"})),
    "mlp": Architecture(mlp, frozenset(_OPTIONS)),
    "residual-mlp": Architecture(residual_mlp, frozenset(_OPTIONS)),
    "resnet": Architecture(resnet, frozenset(_OPTIONS)),
}


@dataclass(frozen=True)
class NetworkSource:
    """A network of a comparison, ready to be built.

    Attributes:
        identity: Its key, and what stays the same about it from call to call.
        make: Builds it from the shape of one input, the number of outputs (of classes, or of values to predict), and the
            settings.
        options: Which of "activation", "depth", "width" and "dropout" it follows.
    """

    identity: NetworkIdentity
    make: Callable[[tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]

    def build(self, input_shape: tuple[int, ...], out_features: int, settings: Settings, seed: int) -> nn.Module:
        """A new network, its weights those of ``seed``.

        Raises:
            SettingsError: A setting that it cannot follow.
            FactoryError: The factory raises, or returns no new ``nn.Module``.
        """
        for option in _OPTIONS:
            value = getattr(settings, option)
            if value != Settings.model_fields[option].default and option not in self.options:
                takes = ", ".join(sorted(self.options)) or "none of them"
                raise SettingsError(
                    f"grid: {option}={value} with network {self.identity.key}, which has no {option} to set; of "
                    f"activation, depth, width and dropout it follows {takes}"
                )
        with initial_weights(seed):
            try:
                model = self.make(input_shape, out_features, settings)
            except BnkitError:
                raise
            except Exception as error:
                raise FactoryError(
                    f"the factory of {self.identity.key} raised {type(error).__name__}: {error}; expected it to return "
                    "an nn.Module"
                ) from error
            if not isinstance(model, nn.Module):
                raise FactoryError(
                    f"the factory of {self.identity.key} returned {type(model).__name__}; expected an nn.Module"
                )
            initialise(model, settings.init)
        return model


def sources(networks: Sequence[str], arms: Sequence[str]) -> dict[str, NetworkSource]:
    """The networks of an experiment by key: each architecture with each arm, each factory's dictionary.

    Keys are those of the arms or the dictionary; where there are several architectures, they stand before a dot.

    Raises:
        SettingsError: An unknown network or arm.
        FactoryError: A file or factory that cannot be used.
    """
    found: dict[str, NetworkSource] = {}
    for network in networks:
        prefix = f"{network.split(':')[-1]}." if len(networks) > 1 else ""
        if is_target(network):
            target = find(network)
            made = _from_target(network, target.value, target.digest, prefix)
        elif network in ARCHITECTURES:
            made = {f"{prefix}{name}": _built_in(f"{prefix}{name}", network, arm_called(name)) for name in arms}
        else:
            raise SettingsError(
                f"unknown network {network!r}; expected one of {', '.join(ARCHITECTURES)}, or file.py:factory"
            )
        clash = found.keys() & made.keys()
        if clash:
            raise SettingsError(f"two networks are called {min(clash)!r}; expected names that differ")
        found |= made
    return found


def from_factories(factories: object, prefix: str = "", origin: str = "networks") -> dict[str, NetworkSource]:
    """Sources from a dictionary of factories, as ``bnkit.compare`` takes it.

    A factory is called without arguments, or with those of ``activation``, ``depth``, ``width`` and ``dropout`` that it names.

    Raises:
        FactoryError: It is no dictionary of callables, or holds a network instead of a factory.
    """
    if not isinstance(factories, Mapping) or not factories:
        raise FactoryError(
            f"{origin} is {_short(factories)}; expected a dictionary of factories, as in "
            '{"no_batch_norm": make_plain, "batch_norm": make_with}'
        )
    return {f"{prefix}{key}": _from_factory(f"{prefix}{key}", factory) for key, factory in factories.items()}


def _built_in(key: str, name: str, arm: Arm) -> NetworkSource:
    architecture = ARCHITECTURES[name]

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        return architecture.build(arm, input_shape, out_features, settings)

    return NetworkSource(
        NetworkIdentity(key=key, identity=f"{name}/{arm.name}", kernel=arm.kernel), make, architecture.options
    )


def _from_target(origin: str, value: object, digest: str, prefix: str) -> dict[str, NetworkSource]:
    if not callable(value):
        return from_factories(value, prefix, origin)
    try:
        factories = value()
    except Exception as error:
        raise FactoryError(
            f"{origin} raised {type(error).__name__}: {error}; expected it to return networks"
        ) from error
    made = from_factories(factories, prefix, f"what {origin} returned")
    return {key: _renamed(source, f"{origin}#{digest[:12]}/{key}") for key, source in made.items()}


def _renamed(source: NetworkSource, identity: str) -> NetworkSource:
    return NetworkSource(source.identity.model_copy(update={"identity": identity}), source.make, source.options)


def _from_factory(key: str, factory: object) -> NetworkSource:
    if isinstance(factory, nn.Module):
        raise FactoryError(
            f"{key} is a {type(factory).__name__} that exists already; expected a factory that builds a new one for each "
            "run, so that no weights leak between runs"
        )
    if not callable(factory):
        raise FactoryError(
            f"{key} is {_short(factory)}; expected a factory: something to call that returns an nn.Module"
        )
    accepted = frozenset(_OPTIONS) & _parameter_names(factory)

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        arguments = {name: getattr(settings, name) for name in accepted}
        made: nn.Module = factory(**arguments)
        return made

    return NetworkSource(NetworkIdentity(key=key, identity=f"{identity_of(factory)}/{key}"), make, accepted)


def _parameter_names(factory: Callable[..., object]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _short(value: object) -> str:
    text = repr(value)
    return f"a {type(value).__name__} ({text if len(text) <= 60 else text[:57] + '...'})"
