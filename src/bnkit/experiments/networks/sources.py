"""Where a network comes from: always a factory, so that no weight of one run leaks into the next."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.experiment import NetworkIdentity
from bnkit.experiments.identity import identity_of
from bnkit.experiments.networks.arms import Arm, arm_called
from bnkit.experiments.networks.initialisation import initialise
from bnkit.experiments.networks.lenet import lenet
from bnkit.experiments.networks.memory_format import laid_out
from bnkit.experiments.networks.mlp import mlp, residual_mlp
from bnkit.experiments.networks.resnet import resnet
from bnkit.experiments.networks.simple_cnn import simple_cnn
from bnkit.experiments.networks.twins import materialise, twin
from bnkit.experiments.networks.two_cnn import two_cnn
from bnkit.experiments.randomness import initial_weights
from bnkit.experiments.settings import Settings
from bnkit.factories import find, is_target

# The arms of one network, if nothing else is said.
PAIR = ("no_batch_norm", "batch_norm")

# What a factory of somebody's own may ask for by name.
_OPTIONS = ("activation", "depth", "width", "dropout", "order")
# Of these, those whose default means what the network has of its own.
_LEFT_TO_NETWORKS = ("activation", "depth", "width", "order")


@dataclass(frozen=True)
class Architecture:
    """A network that bnkit knows.

    Attributes:
        build: Makes it from an arm, the shape of one input, the number of outputs (of classes, or of values to
            predict), and the settings.
        options: Which of "activation", "depth", "width", "dropout" and "order" it follows.
    """

    build: Callable[[Arm, tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]


ARCHITECTURES: dict[str, Architecture] = {
    "two-cnn": Architecture(two_cnn, frozenset({"activation", "dropout"})),
    "lenet": Architecture(lenet, frozenset({"activation", "dropout", "order"})),
    "simple-cnn": Architecture(simple_cnn, frozenset({"activation", "dropout"})),
    "mlp": Architecture(mlp, frozenset(_OPTIONS)),
    "residual-mlp": Architecture(residual_mlp, frozenset(_OPTIONS) - {"order"}),
    "resnet": Architecture(resnet, frozenset(_OPTIONS) - {"order"}),
}


@dataclass(frozen=True)
class NetworkSource:
    """A network of a comparison, ready to be built.

    Attributes:
        identity: Its key, and what stays the same about it from call to call.
        make: Builds it from the shape of one input, the number of outputs (of classes, or of values to predict), and the
            settings.
        options: Which of "activation", "depth", "width", "dropout" and "order" it follows.
        arm: What becomes of the network that ``make`` returns, where that is one for all arms; None where it is the arm's.
    """

    identity: NetworkIdentity
    make: Callable[[tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]
    arm: Arm | None = None

    def build(self, input_shape: tuple[int, ...], out_features: int, settings: Settings, seed: int) -> nn.Module:
        """A new network, its weights those of ``seed``.

        Raises:
            SettingsError: A setting that it cannot follow.
            FactoryError: The factory raises, or returns no new ``nn.Module``; or the arm cannot be made of it.
        """
        model = self.made(input_shape, out_features, settings, seed)
        if self.arm is not None:
            model = twin(model, self.arm, input_shape, self.identity.key)
        return laid_out(model, settings)

    def made(self, input_shape: tuple[int, ...], out_features: int, settings: Settings, seed: int) -> nn.Module:
        """What the factory returns, its weights those of ``seed``: for a network that is one for all arms, before its arm.

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
                    f"activation, depth, width, dropout and order it follows {takes}"
                )
        with initial_weights(seed):
            try:
                model = self.make(input_shape, out_features, settings)
                if self.arm is not None and isinstance(model, nn.Module):
                    materialise(model, input_shape)
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
            initialise(model, settings.init, settings.init_scale)
        return model


def sources(networks: Sequence[str], arms: Sequence[str]) -> dict[str, NetworkSource]:
    """The networks of an experiment by key: each architecture with each arm, each factory's dictionary or one network.

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
            made = _from_target(network, target.value, target.digest, prefix, arms)
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


def from_factories(
    factories: object, prefix: str = "", origin: str = "networks", arms: Sequence[str] = PAIR
) -> dict[str, NetworkSource]:
    """Sources from a dictionary of factories, or from one factory, as ``bnkit.compare`` takes it.

    A factory is called without arguments, or with those of ``activation``, ``depth``, ``width``, ``dropout`` and ``order`` that
    it names.    One factory may return the dictionary; if it returns a network, that is made into a twin for each of ``arms``.

    Raises:
        FactoryError: It is no dictionary of callables, or holds a network instead of a factory.
    """
    if callable(factories):
        return _from_one(factories, prefix, origin, arms)
    return _from_dictionary(factories, prefix, origin)


def _from_dictionary(factories: object, prefix: str, origin: str) -> dict[str, NetworkSource]:
    if not isinstance(factories, Mapping) or not factories:
        raise FactoryError(
            f"{origin} is {_short(factories)}; expected a dictionary of factories, as in "
            '{"no_batch_norm": make_plain, "batch_norm": make_with}, or a factory of one nn.Module'
        )
    return {f"{prefix}{key}": _from_factory(f"{prefix}{key}", factory) for key, factory in factories.items()}


def _from_one(
    factory: Callable[..., object], prefix: str, origin: str, arms: Sequence[str]
) -> dict[str, NetworkSource]:
    """Sources from a factory of a dictionary, or of one network: what it returns decides."""
    source = _from_factory(origin, factory)  # which refuses a network that exists already
    required = _parameter_names(factory, required=True)
    try:
        with initial_weights(0):
            returned = factory(**_arguments(Settings(), source.options & required, required))
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{origin} raised {type(error).__name__}: {error}; expected it to return networks"
        ) from error
    if not isinstance(returned, nn.Module):
        return _from_dictionary(returned, prefix, f"what {origin} returned")
    found = {}
    for name in arms:
        arm = arm_called(name)
        identity = NetworkIdentity(key=f"{prefix}{name}", identity=f"{identity_of(factory)}/{name}", kernel=arm.kernel)
        found[identity.key] = replace(source, identity=identity, arm=arm)
    return found


def is_built_in(network: NetworkIdentity) -> bool:
    """Whether it is one that bnkit knows, and nobody else's."""
    return network.identity.partition("/")[0] in ARCHITECTURES


def _built_in(key: str, name: str, arm: Arm) -> NetworkSource:
    architecture = ARCHITECTURES[name]

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        return architecture.build(arm, input_shape, out_features, settings)

    return NetworkSource(
        NetworkIdentity(key=key, identity=f"{name}/{arm.name}", kernel=arm.kernel), make, architecture.options
    )


def _from_target(origin: str, value: object, digest: str, prefix: str, arms: Sequence[str]) -> dict[str, NetworkSource]:
    made = from_factories(value, prefix, origin, arms)
    return {key: _renamed(source, f"{origin}#{digest[:12]}/{key}") for key, source in made.items()}


def _renamed(source: NetworkSource, identity: str) -> NetworkSource:
    return replace(source, identity=source.identity.model_copy(update={"identity": identity}))


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
    required = _parameter_names(factory, required=True)

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        made: nn.Module = factory(**_arguments(settings, accepted, required))
        return made

    return NetworkSource(NetworkIdentity(key=key, identity=f"{identity_of(factory)}/{key}"), make, accepted)


def _arguments(settings: Settings, accepted: frozenset[str], required: frozenset[str]) -> dict[str, object]:
    """The settings that a factory names. Those that leave the choice to it are not passed where it has a default."""
    left_to_it = {name for name in _LEFT_TO_NETWORKS if getattr(settings, name) == Settings.model_fields[name].default}
    return {name: getattr(settings, name) for name in accepted if name in required or name not in left_to_it}


def _parameter_names(factory: Callable[..., object], *, required: bool = False) -> frozenset[str]:
    """The names of all parameters, or only of those that have no default."""
    try:
        parameters = inspect.signature(factory).parameters
        return frozenset(
            name for name, parameter in parameters.items() if not required or parameter.default is parameter.empty
        )
    except (TypeError, ValueError):
        return frozenset()


def _short(value: object) -> str:
    text = repr(value)
    return f"a {type(value).__name__} ({text if len(text) <= 60 else text[:57] + '...'})"
