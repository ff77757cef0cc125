"""Multi-layer perceptrons: the course's, one of any depth, and a residual one."""

from __future__ import annotations

from math import prod

from torch import nn

from bnkit.errors import SettingsError
from bnkit.experiments.networks.blocks import Residual, dropout, make_activation, norm, norm_and_activation, sequence
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.experiments.run_settings import Settings

# The width of hidden layers if only the depth is set.
_WIDTH = 128


def mlp(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """The course's 784–256–128–10 (for 28×28 pixels); with a ``depth``, that number of linear layers of one ``width``.

    Linear, batch norm, ReLU, as the course's page on benefits has it (``order`` "after": linear, ReLU, batch norm): a
    linear layer that is normalised has no bias.
    """
    if settings.depth == 1:
        raise SettingsError("grid: depth=1 with network mlp; expected at least 2, or 0 for the course's 3")
    hidden = [settings.width or _WIDTH] * (settings.depth - 1) if settings.depth else [256, 128]
    sizes = [prod(input_shape), *hidden]
    layers: dict[str, nn.Module | None] = {"flatten": nn.Flatten()}
    for number, (size, following) in enumerate(zip(sizes, hidden, strict=False), start=1):
        layers |= {
            f"fc{number}": nn.Linear(size, following, bias=arm.norm1d is None),
            **norm_and_activation(settings, "relu", number, arm.norm1d, following),
            f"dropout{number}": dropout(settings.dropout),
        }
    return sequence(**layers, out=nn.Linear(sizes[-1], out_features))


def residual_mlp(arm: Arm, input_shape: tuple[int, ...], out_features: int, settings: Settings) -> nn.Module:
    """A residual MLP of ``depth`` linear layers (8 if 0): the first, blocks of two, the last.

    The blocks are those of He et al. (2015), "Deep Residual Learning", figure 2, with linear layers for convolutions.
    """
    depth, width = settings.depth or 8, settings.width or _WIDTH
    if depth < 4 or depth % 2:
        raise SettingsError(f"grid: depth={depth} with network residual-mlp; expected an even number from 4")
    bias = arm.norm1d is None
    layers: dict[str, nn.Module | None] = {
        "flatten": nn.Flatten(),
        "fc": nn.Linear(prod(input_shape), width, bias=bias),
        "norm": norm(arm.norm1d, width),
        "activation": make_activation(settings.activation, "relu"),
    }
    for number in range(1, (depth - 2) // 2 + 1):
        body = sequence(
            fc1=nn.Linear(width, width, bias=bias),
            norm1=norm(arm.norm1d, width),
            activation1=make_activation(settings.activation, "relu"),
            dropout1=dropout(settings.dropout),
            fc2=nn.Linear(width, width, bias=bias),
            norm2=norm(arm.norm1d, width),
        )
        layers[f"block{number}"] = Residual(body, make_activation(settings.activation, "relu"))
    return sequence(**layers, out=nn.Linear(width, out_features))
