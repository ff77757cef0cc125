"""Temporarily use the statistics of data instead of moving averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnkit.model.inspect.batches import Forward
from bnkit.model.inspect.supported_models import check_supported
from bnkit.model.preserve_state import copy_values
from bnkit.model.statistics.layers_with_statistics import batch_norms
from bnkit.model.statistics.recalibrate import recalibrate
from bnkit.model.statistics.running_stats_drift import Recalibration


@contextmanager
def recalibrated(
    model: nn.Module, batches: Any, forward: Forward | None = None, **options: Any
) -> Iterator[Recalibration]:
    """A context manager: inside, the batch norms of ``model`` have the statistics of the data; afterwards their own.

    Running means, running variances and ``num_batches_tracked`` are restored bit for bit, even if the body raises or
    trains the model. Other changes, such as the mode set by ``model.eval()``, are not undone. May be nested.

    Args:
        model, batches, forward, options: As for ``recalibrate``.

    Yields:
        The result of ``recalibrate``: the drift of every layer.

    Raises:
        BnkitError: As ``recalibrate``; the statistics are then restored.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.BatchNorm1d(1)).eval()
        >>> with recalibrated(model, torch.tensor([[1.0], [2.0], [6.0]])) as recalibration:
        ...     print(model[0].running_mean, recalibration.layers[0].largest_shift > 1)
        tensor([3.]) True
        >>> model[0].running_mean
        tensor([0.])
    """
    check_supported(model, runs=True)
    before = running_statistics(model)
    try:
        yield recalibrate(model, batches, forward, **options)
    finally:
        restore_statistics(model, before)


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running means, variances and counters of the batch norms of ``model``, by dotted name."""
    return {
        f"{name}.{key}" if name else key: buffer.detach().clone()
        for name, layer in batch_norms(model).items()
        for key, buffer in layer.named_buffers(recurse=False)
        if not is_lazy(buffer)
    }


def restore_statistics(model: nn.Module, statistics: dict[str, Tensor]) -> None:
    """Restore the ``statistics`` that ``running_statistics`` returned in the batch norms of ``model``."""
    for name, layer in batch_norms(model).items():
        for key, buffer in layer.named_buffers(recurse=False):
            content = statistics.get(f"{name}.{key}" if name else key)
            if content is not None and not is_lazy(buffer):
                copy_values(buffer, content)
