"""The batch norms of a model that keep running statistics, and which of them are frozen."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.model.preserve_state import preserve_modes


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norm layers of ``model`` that keep running statistics, by dotted name: ours and PyTorch's.

    Examples:
        >>> list(batch_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
        ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }


def is_frozen(layer: _BatchNorm) -> bool:
    """Whether ``layer`` stays in evaluation mode: it has ``is_frozen`` set, or its ``train`` does nothing."""
    if getattr(layer, "is_frozen", False):
        return True
    if layer.training or getattr(layer.train, "__func__", None) is nn.Module.train:
        return False
    with preserve_modes(layer):
        layer.train()
        return not layer.training
