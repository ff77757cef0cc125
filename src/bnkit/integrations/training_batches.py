"""Reads batches of a trainer's loader during training, without an effect on the training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from bnkit.errors import SettingsError
from bnkit.model.statistics.layers_with_statistics import batch_norms, is_frozen

# Enough for the moments of most networks, and no more than an evaluation takes.
DEFAULT_LIMIT = 100


class TrainingBatches:
    """The first ``limit`` batches of ``loader``, from its beginning each time, without a step of the loader itself.

    They are read in this process, through copies of the samplers and of their generators. The loader's workers, the order of the
    training and its random numbers are unchanged.

    Args:
        loader: A ``DataLoader``.
        limit: The number of batches; None for all.

    Raises:
        SettingsError: ``loader`` is not a ``DataLoader``.

    Examples:
        >>> loader = DataLoader(torch.arange(6), 2, shuffle=True, generator=torch.Generator().manual_seed(1))
        >>> before = loader.generator.get_state()
        >>> sorted(torch.cat(list(TrainingBatches(loader))).tolist())
        [0, 1, 2, 3, 4, 5]
        >>> torch.equal(loader.generator.get_state(), before)
        True
    """

    def __init__(self, loader: Any, limit: int | None = DEFAULT_LIMIT) -> None:
        if not isinstance(loader, DataLoader):
            kind = "nothing" if loader is None else f"a {type(loader).__name__}"
            raise SettingsError(
                f"the trainer has {kind} as its training data; expected a DataLoader, or `batches` to recalibrate on"
            )
        self._loader, self._limit = loader, limit

    def __iter__(self) -> Iterator[Any]:
        loader = self._loader
        options: dict[str, Any] = {"collate_fn": loader.collate_fn}
        if isinstance(loader.dataset, IterableDataset):
            options |= {"batch_size": loader.batch_size}
            if loader.batch_size is not None:
                options |= {"drop_last": loader.drop_last}
        elif loader.batch_sampler is not None:
            options |= {"batch_sampler": _copied(loader.batch_sampler)}
        else:
            options |= {"batch_size": None, "sampler": _copied(loader.sampler)}
        return islice(iter(DataLoader(loader.dataset, **options)), self._limit)


def may_recalibrate(model: nn.Module) -> bool:
    """Whether to recalibrate ``model``: not if all its batch norms are frozen. If it has none, ``recalibrate`` raises."""
    layers = batch_norms(model).values()
    return not layers or not all(map(is_frozen, layers))


def _copied(sampler: Any) -> Any:
    """A copy of ``sampler`` that shares its data, but not its generator."""
    twin = copy.copy(sampler)
    for name, value in vars(sampler).items():
        if isinstance(value, Sampler):
            setattr(twin, name, _copied(value))
        elif isinstance(value, torch.Generator):
            setattr(twin, name, torch.Generator(value.device).set_state(value.get_state()))
    return twin
