"""Initialise the weights of a network as the experiment says."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def init_weights(model: nn.Module, init: str, scale: float = 1.0) -> None:
    """Re-initialise the weights of all convolutions and linear layers in place; biases are unchanged.

    Args:
        model: The network.
        init: "xavier" (Glorot & Bengio 2010, uniform, gain 1), "kaiming" (He et al. 2015, normal, fan-in, for ReLU), or
            "default".
        scale: Multiplies the weights afterwards.
    """
    if init == "default" and scale == 1.0:
        return
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            if init != "default":
                (_xavier if init == "xavier" else _kaiming)(module.weight)
            if scale != 1.0:
                with torch.no_grad():
                    module.weight.mul_(scale)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_uniform_(weight)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
