"""Examples that somebody's own ``torch.utils.data.Dataset`` hands out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from bnkit.data.targets import as_targets
from bnkit.data.waiting import followed
from bnkit.errors import DataError

_SURVEY_BATCH = 256


class Survey(NamedTuple):
    """What one pass over a dataset finds.

    Attributes:
        shape: Of one input.
        target_shape: Of one target.
        classes: The largest class number, plus one; None where the targets are floating.
        mean, deviation: Of all values, bytes counted from 0 to 1.
    """

    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    classes: int | None
    mean: float
    deviation: float


@dataclass(frozen=True)
class Streamed:
    """A part of a data set that is not held in memory: batches come from a ``DataLoader``.

    Attributes:
        dataset: A map-style dataset of (input, target).
        rows: Which of its examples; int64.
        survey: What one pass over all of it found.
        subtract, divide: What the inputs are normalised by.
        device: Where batches go.
        num_workers: Processes that load.
        indices: Whether inputs stay integers, int64, by which a network looks something up.
    """

    dataset: Dataset[Any]
    rows: Tensor
    survey: Survey
    subtract: float = 0.0
    divide: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0
    indices: bool = False

    @classmethod
    def of(cls, dataset: Dataset[Any], name: str) -> Streamed:
        """All of ``dataset``, gone through once.

        Raises:
            DataError: It has no length, is empty, or an example is no (input, target).
        """
        try:
            size = len(dataset)  # type: ignore[arg-type]
        except TypeError as error:
            raise DataError(
                f"{name} has no length; expected a map-style Dataset with __len__ and __getitem__"
            ) from error
        if size == 0:
            raise DataError(f"{name} is empty; expected at least one example")
        return cls(dataset, torch.arange(size), _survey(dataset, size, name))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Streamed:
        return replace(self, rows=self.rows[rows.to(self.rows.device)])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return self.survey.shape

    @property
    def classes(self) -> int | None:
        """The largest class number, plus one; None where the targets are floating."""
        return self.survey.classes

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return self.survey.target_shape

    def head(self, count: int) -> tuple[Tensor, Tensor]:
        """The inputs, (count, *), floating, and the targets of the first ``count`` examples."""
        inputs, targets = default_collate([self.dataset[row] for row in self.rows[:count].tolist()])
        return self._ready(inputs), as_targets(targets).to(self.device)

    def raw_head(self, count: int) -> Tensor:
        """The inputs of the first ``count`` examples as the dataset hands them out."""
        inputs: Tensor = default_collate([self.dataset[row] for row in self.rows[:count].tolist()])[0]
        return inputs

    def batches(self, batch_size: int, order: Tensor | None, drop_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """``(inputs, targets)`` by ``batch_size``, in the ``order`` of a permutation of the examples."""
        rows = self.rows if order is None else self.rows[order.cpu()]
        loader = DataLoader(
            self.dataset,
            batch_size=batch_size,
            sampler=rows.tolist(),
            drop_last=drop_last,
            num_workers=self.num_workers,
            # Seeds for the workers, which follow from the epoch and take nothing from the generator of dropout.
            generator=torch.Generator().manual_seed(torch.initial_seed()),
            pin_memory=self.device.type == "cuda",
        )
        for inputs, targets in loader:
            yield self._ready(inputs), as_targets(targets).to(self.device)

    def _ready(self, inputs: Tensor) -> Tensor:
        if self.indices:
            return inputs.to(self.device, non_blocking=True).long()
        return (_floating(inputs.to(self.device, non_blocking=True)) - self.subtract) / self.divide


def _survey(dataset: Dataset[Any], size: int, name: str) -> Survey:
    total = squares = 0.0
    count = classes = 0
    shape: tuple[int, ...] = ()
    floating, target_shape = False, shape
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=_SURVEY_BATCH, sampler=range(size))
    try:
        for inputs, handed_out in followed(loader, f"going through {name}"):
            targets = as_targets(handed_out)
            floating = targets.is_floating_point()
            shape, target_shape = tuple(inputs.shape[1:]), tuple(targets.shape[1:])
            if not floating:
                classes = max(classes, int(targets.max()) + 1)
            if not bool(targets.isfinite().all()) or (not floating and int(targets.min()) < 0):
                raise TypeError("targets are inf, NaN, or negative class numbers")
            values = _floating(inputs).double()
            total, squares, count = (
                total + float(values.sum()),
                squares + float(values.square().sum()),
                count + values.numel(),
            )
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{name} raised {type(error).__name__}: {error}; expected examples (input, class number or "
            "floating target), the inputs tensors of one shape"
        ) from error
    mean = total / count
    # Sums of float64 over pixels around 1: the difference loses nothing that float32 would keep.
    deviation = max(squares / count - mean**2, 0.0) ** 0.5
    return Survey(shape, target_shape, None if floating else classes, mean, deviation)


def _floating(inputs: Tensor) -> Tensor:
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
