"""How the weights and activations of a network lie in memory."""

from __future__ import annotations

import torch
from torch import nn

from bnkit.experiments.settings import Settings
from bnkit.nn import BatchNorm2d


def to_memory_format(model: nn.Module, settings: Settings) -> nn.Module:
    """``model`` in the memory format of the settings, which convolutions pass on to the layers after them.

    On a CPU the arm ``batch_norm`` then uses the Numba kernel: PyTorch's batch norm is ten times slower with few channels last
    than with contiguous ones.
    """
    if settings.memory_format == "contiguous":
        return model
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.device == "cpu":
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d) and layer.kernel == "aten":
                layer.kernel = "numba"
    return model
