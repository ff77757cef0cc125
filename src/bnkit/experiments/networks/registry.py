"""The networks that bnkit knows, and network sources: always factories, so that runs share no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.built_in_networks import built_in_identity, key_prefix
from bnkit.experiments.code_fingerprint import fingerprint_of
from bnkit.experiments.experiment import DEFAULT_ARMS, NetworkIdentity
from bnkit.experiments.networks.batch_norm_settings import set_batch_norms
from bnkit.experiments.networks.counterpart_of_user_network import make_twin, materialize_lazy, random_example
from bnkit.experiments.networks.factory_parameters import OPTIONS, factory_arguments, factory_parameters
from bnkit.experiments.networks.initial_weights import init_weights, seeded_weights
from bnkit.experiments.networks.lenet import lenet
from bnkit.experiments.networks.mlp import mlp, residual_mlp
from bnkit.experiments.networks.normalization_kinds import Arm, find_arm
from bnkit.experiments.networks.resnet import resnet
from bnkit.experiments.networks.simple_cnn import simple_cnn
from bnkit.experiments.networks.two_cnn import two_cnn
from bnkit.experiments.run_settings import Settings
from bnkit.import_user_function import is_factory_name, load_factory, refuse_required_arguments, what_it_is
from bnkit.kernels.compilation.compiled_loops import is_numba_installed
from bnkit.message_parts import unknown_name
from bnkit.nn import BatchNorm2d


@dataclass(frozen=True)
class Architecture:
    """A built-in network.

    Attributes:
        build: Builds it from an arm, the shape of one input, the number of outputs, and the settings.
        options: Which of "activation", "depth", "width", "dropout" and "order" it supports.
    """

    build: Callable[[Arm, tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]


ARCHITECTURES: dict[str, Architecture] = {
    "two-cnn": Architecture(two_cnn, frozenset({"activation", "dropout"})),
    "lenet": Architecture(lenet, frozenset({"activation", "dropout", "order"})),
    "simple-cnn": Architecture(simple_cnn, frozenset({"activation", "dropout"})),
    "mlp": Architecture(mlp, frozenset(OPTIONS)),
    "residual-mlp": Architecture(residual_mlp, frozenset(OPTIONS) - {"order"}),
    "resnet": Architecture(resnet, frozenset(OPTIONS) - {"order"}),
}


@dataclass(frozen=True)
class NetworkSource:
    """Builds a network of a comparison.

    Attributes:
        identity: Its key, and an identity that does not change between calls.
        make: Builds it from the shape of one input, the number of outputs, and the settings.
        options: Which of "activation", "depth", "width", "dropout" and "order" it supports.
        arm: The arm that the network of ``make`` is converted to; None if ``make`` returns that of the arm.
    """

    identity: NetworkIdentity
    make: Callable[[tuple[int, ...], int, Settings], nn.Module]
    options: frozenset[str]
    arm: Arm | None = None

    def build(
        self,
        input_shape: tuple[int, ...],
        out_features: int,
        settings: Settings,
        seed: int,
        example: Tensor | None = None,
    ) -> nn.Module:
        """A new network with weights seeded by ``seed``.

        Args:
            input_shape: The shape of one input, without N.
            out_features: The number of outputs: of classes, or of values to predict.
            settings: The settings of the run.
            seed: Seeds the weights.
            example: Inputs that it runs on, to convert it to its arm; None for random numbers.

        Raises:
            SettingsError: If it does not support a setting.
            FactoryError: If the factory raises or does not return an ``nn.Module``, or it cannot be converted to its arm.
        """
        if example is None:
            example = random_example(input_shape)
        model = self.build_from_factory(input_shape, out_features, settings, seed, example)
        if self.arm is not None:
            model = make_twin(model, self.arm, example, self.identity.key)
        set_batch_norms(model, settings, self.identity.key)
        return to_memory_format(model, settings)

    def build_from_factory(
        self, input_shape: tuple[int, ...], out_features: int, settings: Settings, seed: int, example: Tensor
    ) -> nn.Module:
        """The network from the factory, with weights seeded by ``seed``, before it is converted to the arm.

        Raises:
            SettingsError: If it does not support a setting.
            FactoryError: If the factory raises or does not return an ``nn.Module``.
        """
        for option in OPTIONS:
            value = getattr(settings, option)
            is_left = value == Settings.model_fields[option].default or (option == "dropout" and value == 0)
            if not is_left and option not in self.options:
                takes = ", ".join(sorted(self.options)) or "none of them"
                raise SettingsError(
                    f"grid: {option}={value} with network {self.identity.key}, which has no {option} to set; of "
                    f"activation, depth, width, dropout and order it follows {takes}"
                )
        with seeded_weights(seed):
            try:
                model = self.make(input_shape, out_features, settings)
                if self.arm is not None and isinstance(model, nn.Module):
                    materialize_lazy(model, example)
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
            init_weights(model, settings.init, settings.init_scale)
        self._refuse_dropout_in_spite_of(settings, model)
        return model

    def _refuse_dropout_in_spite_of(self, settings: Settings, model: nn.Module) -> None:
        if settings.dropout != 0 or "dropout" in self.options:
            return
        for name, module in model.named_modules():
            if isinstance(module, _DropoutNd) and module.p > 0:
                raise SettingsError(
                    f"grid: dropout={settings.dropout} with network {self.identity.key}, whose {name or 'only layer'} drops "
                    f"{module.p:g} and cannot be set; leave dropout out of the grid, or let the factory take dropout"
                )


def to_memory_format(model: nn.Module, settings: Settings) -> nn.Module:
    """``model`` in the memory format of the settings, which convolutions pass on to the layers after them.

    On a CPU the arm ``batch_norm`` then uses the Numba kernel, where Numba is installed: PyTorch's batch norm is ten times slower
    with few channels last than with contiguous ones.
    """
    if settings.memory_format == "contiguous":
        return model
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.device == "cpu" and is_numba_installed():
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d) and layer.kernel == "aten":
                layer.kernel = "numba"
    return model


def network_sources(networks: Sequence[str], arms: Sequence[str]) -> dict[str, NetworkSource]:
    """The sources of an experiment's networks by key: each architecture with each arm, and those of each factory.

    Keys are those of the arms or of a factory's dictionary; with several ``networks``, prefixed by the name and a dot.

    Raises:
        SettingsError: If a network or an arm is unknown.
        FactoryError: If a file or a factory cannot be used.
    """
    sources: dict[str, NetworkSource] = {}
    for network in networks:
        prefix = key_prefix(network, is_alone=len(networks) == 1)
        if is_factory_name(network):
            loaded = load_factory(network)
            added = from_factories(loaded.value, prefix, network, arms, loaded_as=f"{network}#{loaded.digest[:12]}")
        elif network in ARCHITECTURES:
            added = {f"{prefix}{name}": _built_in(f"{prefix}{name}", network, find_arm(name)) for name in arms}
        else:
            message = unknown_name("unknown network", network, ARCHITECTURES, ", or file.py:factory")
            raise SettingsError(f"{message}{what_it_is(network)}")
        clash = sources.keys() & added.keys()
        if clash:
            raise SettingsError(f"two networks are called {min(clash)!r}; expected names that differ")
        sources |= added
    return sources


def from_factories(
    factories: object,
    prefix: str = "",
    origin: str = "networks",
    arms: Sequence[str] = DEFAULT_ARMS,
    loaded_as: str = "",
) -> dict[str, NetworkSource]:
    """Sources from a dictionary of factories, or from one factory, as ``bnkit.compare`` takes it.

    A factory is called without arguments, or with those of ``activation``, ``depth``, ``width``, ``dropout`` and ``order`` that
    it accepts and the grid sets. A single factory may return such a dictionary; if it returns a network, that is converted to
    each of ``arms``.

    Args:
        factories: The dictionary, or the factory.
        prefix: The prefix of the keys.
        origin: Its name in messages.
        arms: The arms of a single network.
        loaded_as: Its identity if it was loaded by name; empty for that of each factory.

    Raises:
        FactoryError: If it is not a dictionary of callables, or holds a network instead of a factory.
    """
    if callable(factories):
        return _from_single_factory(factories, prefix, origin, arms, loaded_as)
    return _from_dictionary(factories, prefix, origin, loaded_as)


def _from_dictionary(factories: object, prefix: str, origin: str, loaded_as: str) -> dict[str, NetworkSource]:
    if not isinstance(factories, Mapping) or not factories:
        raise FactoryError(
            f"{origin} is {_short(factories)}; expected a dictionary of factories, as in "
            '{"no_batch_norm": make_plain, "batch_norm": make_with}, or a factory of one nn.Module'
        )
    keys = {f"{prefix}{key}": factory for key, factory in factories.items()}
    return {key: _from_factory(key, factory, key, loaded_as) for key, factory in keys.items()}


def _from_single_factory(
    factory: Callable[..., object], prefix: str, origin: str, arms: Sequence[str], loaded_as: str
) -> dict[str, NetworkSource]:
    """Sources from one factory, which may return a dictionary of factories or a network."""
    source = _from_factory(origin, factory, "", loaded_as)  # raises for a network in place of a factory
    try:
        with seeded_weights(0):
            returned = factory(**factory_arguments(Settings(), factory_parameters(factory)))
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{origin} raised {type(error).__name__}: {error}; expected it to return networks"
        ) from error
    if not isinstance(returned, nn.Module):
        return _from_dictionary(returned, prefix, f"what {origin} returned", loaded_as)
    sources = {}
    for name in arms:
        arm, key = find_arm(name), f"{prefix}{name}"
        # A factory loaded by name has its key in the identity, one passed as an object only the arm.
        what = f"{source.identity.identity}{key if loaded_as else name}"
        identity = source.identity.model_copy(update={"key": key, "identity": what, "kernel": arm.kernel})
        sources[key] = replace(source, identity=identity, arm=arm)
    return sources


def is_built_in(network: NetworkIdentity) -> bool:
    """Whether it is one of ``ARCHITECTURES``."""
    return network.identity.partition("/")[0] in ARCHITECTURES


def _built_in(key: str, name: str, arm: Arm) -> NetworkSource:
    architecture = ARCHITECTURES[name]

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        return architecture.build(arm, input_shape, out_features, settings)

    return NetworkSource(built_in_identity(key, name, arm.name), make, architecture.options)


def _from_factory(origin: str, factory: object, key: str, loaded_as: str) -> NetworkSource:
    if isinstance(factory, nn.Module):
        raise FactoryError(
            f"{origin} is a {type(factory).__name__} that exists already; expected a factory that builds a new one for each "
            "run, so that no weights leak between runs"
        )
    if not callable(factory):
        raise FactoryError(
            f"{origin} is {_short(factory)}; expected a factory: something to call that returns an nn.Module"
        )
    parameters = factory_parameters(factory)
    refuse_required_arguments(origin, factory, parameters)

    def make(input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
        model: nn.Module = factory(**factory_arguments(settings, parameters))
        return model

    identity = NetworkIdentity(
        key=key or origin,
        identity=f"{loaded_as or fingerprint_of(factory)}/{key}",
        own_dropout=parameters.get("dropout") is False,
    )
    return NetworkSource(identity, make, frozenset(parameters))


def _short(value: object) -> str:
    text = repr(value)
    return f"a {type(value).__name__} ({text if len(text) <= 60 else text[:57] + '...'})"
