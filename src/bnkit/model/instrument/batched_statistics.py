"""Collect tensors during a forward pass and reduce those of the same shape together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

# Tensors with up to this many values are kept until the end: a call costs more than the work on their values.
_SMALL = 1 << 15

Figure = TypeVar("Figure")


class BatchedStatistics(ABC, Generic[Figure]):
    """Collects statistics of intermediate tensors during a forward pass, before in-place operations overwrite them.

    A network of many narrow layers has a hundred small tensors with few different shapes. One call for all tensors of a
    shape costs little more than a call for one tensor, and needs only one device synchronisation.
    """

    def __init__(self) -> None:
        self._count = 0
        # Numbered tensors: small ones by shape, and the reductions of large ones.
        self._small: defaultdict[tuple[Any, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        self._large: list[tuple[int, tuple[Tensor, ...]]] = []

    def note(self, values: Tensor, key: Any) -> int:
        """Record ``values``; returns their index in the result of ``compute``.

        Args:
            values: A tensor that is not empty.
            key: A hashable argument of ``_reduce``; only tensors with the same key are reduced together.
        """
        number, values = self._count, values.detach()
        self._count += 1
        if values.numel() <= _SMALL:
            self._small[(key, values.shape, values.dtype, values.device)].append((number, values.clone()))
        else:
            self._large.append((number, self._reduce(values.unsqueeze(0), key)))
        return number

    def compute(self) -> list[Figure]:
        """The figures of all recorded tensors, in order."""
        by_number: dict[int, Figure] = {}
        for (key, *_), group in self._small.items():
            numbers, tensors = zip(*group, strict=True)
            by_number.update(zip(numbers, self._figures(*self._reduce(torch.stack(tensors), key)), strict=True))
        for number, reduced in self._large:
            (by_number[number],) = self._figures(*reduced)
        return [by_number[number] for number in range(self._count)]

    @abstractmethod
    def _reduce(self, stacked: Tensor, key: Any) -> tuple[Tensor, ...]:
        """Reduce ``stacked``, (tensors, *shape), to small tensors on the same device with the same first dimension."""

    @abstractmethod
    def _figures(self, *reduced: Tensor) -> list[Figure]:
        """The figures of each tensor, from the results of ``_reduce``."""
