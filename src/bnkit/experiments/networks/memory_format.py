"""How the weights and activations of a network lie in memory."""

from __future__ import annotations

import torch
from torch import nn

from bnkit.experiments.settings import Settings
from bnkit.nn import BatchNorm2d


def to_memory_format(model: nn.Module, settings: Settings) -> nn.Module:
    """``model`` in the memory format of the settings: convolutions hand theirs on to what comes behind.

    PyTorch's batch norm takes ten times as long for a few channels that stand last as for contiguous ones; on a CPU the
    arm ``batch_norm`` takes our loops there.
    """
    if settings.memory_format == "contiguous":
        return model
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.device == "cpu":
        for layer in model.modules():
            if isinstance(layer, BatchNorm2d) and layer.kernel == "aten":
                layer.kernel = "numba"
    return model
