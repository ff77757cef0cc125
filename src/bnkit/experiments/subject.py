"""The model that a command is about, as a user names it: a factory, a file of weights, an example or data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.data import Part, batches, prepare
from bnkit.data.custom import data_called
from bnkit.errors import FactoryError, SettingsError
from bnkit.factories import find
from bnkit.model.batches import device_of
from bnkit.model.saving import load_weights
from bnkit.model.shapes import dtype_of, example_of
from bnkit.seeding import seeded

# As many as a batch of a comparison has by default.
_EXAMPLES = 64


@dataclass(frozen=True)
class Subject:
    """A model, and something that it can be called with.

    Attributes:
        model: The model.
        example: A tuple (positional arguments) or a dictionary (keywords) of tensors; None if none was asked for.
    """

    model: nn.Module
    example: Any


def subject(name: str, shapes: Sequence[str] = (), data: str | None = None, weights: Path | None = None) -> Subject:
    """The model that ``name`` stands for, and an example for it.

    Args:
        name: ``package.module:factory`` or ``path/to/file.py:factory``. The factory is called without arguments, under a
            fixed seed; a model in its place will do.
        shapes: Of an example, as ``64x3x32x32`` (see ``shapes.example_of``).
        data: Instead: a data set, of whose training part the first 64 examples are taken, normalised as for a comparison.
        weights: A file of weights to load.

    Raises:
        BnkitError: One of these is not there, or does not go with the others.
    """
    if shapes and data is not None:
        raise SettingsError(f"--input {shapes[0]} with --data {data}; expected one of the two")
    model = model_called(name)
    if weights is not None:
        load_weights(model, weights)
    if data is not None:
        inputs, _ = training_part(data).head(_EXAMPLES)
        return Subject(model, (inputs.to(device_of(model), dtype_of(model)),))
    return Subject(model, example_of(shapes, model) if shapes else None)


def model_called(name: str) -> nn.Module:
    """What the factory of that name returns.

    Raises:
        FactoryError: It is not there, raises, or returns no ``nn.Module``.
    """
    value = find(name).value
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise FactoryError(f"{name} is a {type(value).__name__}; expected a factory that returns an nn.Module")
    try:
        with seeded(0, "weights"):
            model = value()
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{name} raised {type(error).__name__}: {error}; expected it to return an nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise FactoryError(f"{name} returned a {type(model).__name__}; expected an nn.Module")
    return model


def training_part(data: str) -> Part:
    """All of the training part of the data set of that name, normalised as for a comparison."""
    return prepare(data_called(data), "normal", 0.0).train


class InputBatches:
    """Batches of the inputs of ``part`` in mixed order, the same each time they are gone through.

    A last batch of one example, which has no deviation, goes with the batch before it.

    Args:
        part: The examples.
        batch_size: How many at a time.
        dtype: Of the batches.

    Raises:
        SettingsError: A batch size below 1.
    """

    def __init__(self, part: Part, batch_size: int, dtype: torch.dtype) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size={batch_size}; expected a whole number above 0")
        self._part, self._batch_size, self._dtype = part, batch_size, dtype
        self._order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))

    def __iter__(self) -> Iterator[Tensor]:
        before: Tensor | None = None
        for inputs, _ in batches(self._part, self._batch_size, self._order):
            current = inputs.to(self._dtype)
            if before is not None and len(current) == 1 < self._batch_size:
                current = torch.cat([before, current])
            elif before is not None:
                yield before
            before = current
        if before is not None:
            yield before


class LabelledBatches:
    """Batches ``(inputs, targets)`` of ``part``, the same each time they are gone through.

    A last batch of one example goes with the batch before it.

    Args:
        part: The examples.
        batch_size: How many at a time.
        dtype: Of the inputs.
        count: So many batches from a mixed order; None for all examples in their own order.

    Raises:
        SettingsError: A batch size below 1.
    """

    def __init__(self, part: Part, batch_size: int, dtype: torch.dtype, count: int | None = None) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size={batch_size}; expected a whole number above 0")
        if count is not None:
            part = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[: count * batch_size]]
        self._part, self._batch_size, self._dtype = part, batch_size, dtype

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        before: tuple[Tensor, Tensor] | None = None
        for inputs, targets in batches(self._part, self._batch_size):
            current = inputs.to(self._dtype), targets
            if before is not None and len(targets) == 1 < self._batch_size:
                current = torch.cat([before[0], current[0]]), torch.cat([before[1], current[1]])
            elif before is not None:
                yield before
            before = current
        if before is not None:
            yield before
