"""How a network's weights begin, where the experiment says so."""

from __future__ import annotations

from torch import Tensor, nn


def initialise(model: nn.Module, init: str) -> None:
    """Draw the weights of all convolutions and linear layers anew; biases stay, and "default" leaves all as it is.

    Args:
        model: Changed in place.
        init: "xavier" (Glorot & Bengio 2010, uniform, gain 1), "kaiming" (He et al. 2015, normal, fan-in, for ReLU), or
            "default".
    """
    if init == "default":
        return
    draw = _xavier if init == "xavier" else _kaiming
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            draw(module.weight)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
