"""Building blocks of the networks: named layers in sequence, of which an arm may omit some."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from bnkit.errors import SettingsError
from bnkit.experiments.networks.layer_sequence import Sequential
from bnkit.experiments.networks.normalization_kinds import NormFactory
from bnkit.experiments.run_settings import Settings
from bnkit.kernels.activation import MODULES

Layers = dict[str, nn.Module | None]


class Residual(nn.Module):
    """``activation(shortcut(x) + body(x))``; without a ``shortcut``, x itself."""

    def __init__(self, body: nn.Module, activation: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut if shortcut is not None else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """The activation of the sum of shortcut and body."""
        result: Tensor = self.activation(self.shortcut(x) + self.body(x))
        return result


def sequence(**layers: nn.Module | None) -> nn.Sequential:
    """The layers that are not None, in order and under their names, so that names do not depend on the arm."""
    return Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


def make_activation(name: str, own: str) -> nn.Module:
    """A new activation module; "default" means ``own``."""
    return MODULES[own if name == "default" else name]()


def norm_and_activation(
    settings: Settings, own: str, number: int, factory: NormFactory | None, channels: int
) -> Layers:
    """``norm<number>`` and ``activation<number>``, in the order of the settings; by default norm first."""
    layers = {
        f"norm{number}": norm(factory, channels),
        f"activation{number}": make_activation(settings.activation, own),
    }
    return dict(reversed(layers.items())) if settings.order == "after" else layers


def norm(factory: NormFactory | None, channels: int) -> nn.Module | None:
    """A new normalisation layer; None for an arm without."""
    return factory(channels) if factory is not None else None


def dropout(probability: float | str) -> nn.Module | None:
    """A new dropout layer; None for a probability of 0, which "default" means in bnkit's networks."""
    return nn.Dropout(probability) if isinstance(probability, float) and probability > 0 else None


def image_shape(network: str, input_shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """``(C, H, W)``, checked to be large enough for ``network``."""
    if len(input_shape) != 3 or min(input_shape[1:]) < smallest:
        raise SettingsError(
            f"network {network} got inputs of shape {input_shape}; expected images (C, H, W) of at least "
            f"{smallest}×{smallest}"
        )
    channels, height, width = input_shape
    return channels, height, width


def size_after_two_convolutions(size: int) -> int:
    """The size of a side after two 5×5 convolutions without padding, each followed by 2×2 pooling: 28 -> 12 -> 4."""
    return ((size - 4) // 2 - 4) // 2
