"""Population statistics: the moments of each batch norm's input over a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnkit.mergeable_moments import Moments
from bnkit.model.preserve_state import preserve_modes, temporary_buffers
from bnkit.model.statistics.statistics_engine import (
    BatchNormCall,
    LayerStatistics,
    check_several,
    collect,
    set_running_statistics,
)


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


def population_statistics(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Moments]:
    """The moments of each batch norm's input over all ``batches``, by the layer's dotted name.

    All layers are measured in one pass, while the layers before them normalise with the statistics of the batch (Ioffe
    & Szegedy 2015, Algorithm 2, lines 8 to 10) and all other layers are in evaluation mode. The moments of the batches
    are merged exactly, weighted by batch size.

    Args:
        model: Its modes, buffers and counters are restored.
        batches: Inputs of the model, each with more than one value per channel.

    Returns:
        The moments, on the CPU, without layers that never ran or are frozen.

    Raises:
        TooFewValuesError: A batch has one value per channel.
    """
    layers = {name: layer for name, layer in batch_norms(model).items() if not is_frozen(layer)}
    statistics = LayerStatistics()

    def on_call(call: BatchNormCall) -> Moments:
        check_several(call)
        statistics.add(call)
        return call.moments

    with temporary_buffers(model, layers), torch.no_grad():
        model.eval()
        collect(layers, batches, lambda inputs, _: model(inputs), on_call)
    return statistics.by_layer()


def is_frozen(layer: _BatchNorm) -> bool:
    """Whether ``layer`` stays in evaluation mode: it has ``is_frozen`` set, or its ``train`` does nothing."""
    if getattr(layer, "is_frozen", False):
        return True
    if layer.training or getattr(layer.train, "__func__", None) is nn.Module.train:
        return False
    with preserve_modes(layer):
        layer.train()
        return not layer.training


@contextmanager
def normalising_by(model: nn.Module, statistics: Mapping[str, Moments]) -> Iterator[None]:
    """Inside, the batch norms of ``model`` normalise with ``statistics``; afterwards with their own again."""
    layers = batch_norms(model)
    with temporary_buffers(model, layers):
        for name, moments in statistics.items():
            set_running_statistics(layers[name], moments)
        yield
