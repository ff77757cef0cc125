"""Tensors of one shape, gathered as they pass by and worked on together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

# Tensors up to so many values are kept until the end: a call costs more than the work on their values.
_SMALL = 1 << 15

Figure = TypeVar("Figure")


class BatchedStatistics(ABC, Generic[Figure]):
    """Takes note of tensors while a network runs, which may change them afterwards, and says at the end what they were.

    A network of many narrow layers has a hundred small tensors, of few shapes. One call for all of a shape costs little more
    than one for a single tensor, and a device is waited for once a shape.
    """

    def __init__(self) -> None:
        self._count = 0
        # Each with its number: small tensors by shape, and what large ones were reduced to at once.
        self._small: defaultdict[tuple[Any, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        self._large: list[tuple[int, tuple[Tensor, ...]]] = []

    def note(self, values: Tensor, key: Any) -> int:
        """The number of ``values``: their place in ``compute``.

        Args:
            values: Of any shape and size but 0.
            key: For ``_reduce``, hashable; only tensors of the same key are worked on together.
        """
        number, values = self._count, values.detach()
        self._count += 1
        if values.numel() <= _SMALL:
            self._small[(key, values.shape, values.dtype, values.device)].append((number, values.clone()))
        else:
            self._large.append((number, self._reduce(values.unsqueeze(0), key)))
        return number

    def compute(self) -> list[Figure]:
        """Of all that was noted, in that order."""
        by_number: dict[int, Figure] = {}
        for (key, *_), group in self._small.items():
            numbers, tensors = zip(*group, strict=True)
            by_number.update(zip(numbers, self._figures(*self._reduce(torch.stack(tensors), key)), strict=True))
        for number, reduced in self._large:
            (by_number[number],) = self._figures(*reduced)
        return [by_number[number] for number in range(self._count)]

    @abstractmethod
    def _reduce(self, stacked: Tensor, key: Any) -> tuple[Tensor, ...]:
        """Little tensors on the same device, with a first dimension like that of ``stacked``, (tensors, *shape)."""

    @abstractmethod
    def _figures(self, *reduced: Tensor) -> list[Figure]:
        """Of each tensor, from what ``_reduce`` returned."""
