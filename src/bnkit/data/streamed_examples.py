"""A split that is loaded batch by batch from a user's ``torch.utils.data.Dataset``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from bnkit.console import track_progress
from bnkit.data.examples_check import ExamplesCheck
from bnkit.data.seeded_dataset import SeededDataset
from bnkit.data.tensor_conversion import tensor_bytes, to_float32
from bnkit.errors import DataError
from bnkit.mergeable_moments import Moments

_SURVEY_BATCH = 256
# Examples, spread over the dataset, that are loaded twice to see whether they repeat.
_EXAMPLES_REPEATED = 32


class Survey(NamedTuple):
    """The result of one pass over a dataset.

    Attributes:
        shape: The shape of one input.
        target_shape: The shape of one target.
        dtype: The dtype of the inputs, as the dataset returns them.
        labels: The class numbers that occur; None if the targets are floating.
        constant_targets: Whether all targets are the same.
        mean, deviation: Over all values, bytes scaled to 0 to 1.
        content: The digests of the inputs and of the targets; empty if they differ between passes under one seed.
    """

    shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    dtype: torch.dtype
    labels: frozenset[int] | None
    constant_targets: bool
    mean: float
    deviation: float
    content: tuple[str, str]


@dataclass(frozen=True)
class Streamed:
    """A split that is not in memory: its batches come from a ``DataLoader``.

    Attributes:
        dataset: A map-style dataset of (input, target).
        rows: The indices of its examples in the dataset; int64.
        survey: The result of one pass over the whole dataset.
        name: Its name in messages.
        subtract, divide: What the inputs are normalised by.
        device: The device of the batches.
        num_workers: Worker processes of the ``DataLoader``.
        indices: Whether inputs stay int64, because a network uses them as indices.
    """

    dataset: Dataset[Any]
    rows: Tensor
    survey: Survey
    name: str
    subtract: float = 0.0
    divide: float = 1.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_workers: int = 0
    indices: bool = False

    @classmethod
    def of(cls, dataset: Dataset[Any], name: str) -> Streamed:
        """All examples of ``dataset``, after one pass over it.

        Raises:
            DataError: If it has no length, is empty, or an example is not (input, target).
        """
        try:
            size = len(dataset)  # type: ignore[arg-type]
        except TypeError as error:
            raise DataError(
                f"{name} has no length; expected a map-style Dataset with __len__ and __getitem__"
            ) from error
        if isinstance(dataset, IterableDataset):
            raise DataError(
                f"{name} is an IterableDataset, which has no examples to be shuffled by number; expected a map-style Dataset "
                "with __len__ and __getitem__"
            )
        if size == 0:
            raise DataError(f"{name} is empty; expected at least one example")
        return cls(dataset, torch.arange(size), _survey(dataset, size, name), name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> Streamed:
        return replace(self, rows=self.rows[rows.to(self.rows.device)])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return self.survey.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the inputs, as the dataset returns them."""
        return self.survey.dtype

    @property
    def deviation(self) -> float:
        """The standard deviation of the inputs."""
        return self.survey.deviation

    @property
    def classes(self) -> int | None:
        """The largest class number plus one; None if the targets are floating."""
        return None if self.survey.labels is None else max(self.survey.labels) + 1

    @property
    def labels(self) -> frozenset[int] | None:
        """The class numbers that occur; None if the targets are floating."""
        return self.survey.labels

    @property
    def constant_targets(self) -> bool:
        """Whether all targets are the same."""
        return self.survey.constant_targets

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return self.survey.target_shape

    def head(self, count: int) -> tuple[Tensor, Tensor]:
        """The inputs, (count, *), floating, and the targets of the first ``count`` examples."""
        inputs, targets = SeededDataset(self.dataset, self.name, "head").batch(self.rows[:count].tolist())
        return self._ready(inputs), targets.to(self.device)

    def raw_head(self, count: int) -> Tensor:
        """The inputs of the first ``count`` examples, as the dataset returns them."""
        return SeededDataset(self.dataset, self.name, "head").batch(self.rows[:count].tolist())[0]

    def batches(self, batch_size: int, order: Tensor | None, drop_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``(inputs, targets)`` in the ``order`` of a permutation of the examples.

        The dataset is seeded by ``order``: its random numbers differ between epochs, and are the same for every network.
        """
        rows = self.rows if order is None else self.rows[order.cpu()]
        key = "" if order is None else hashlib.sha256(order.cpu().numpy().tobytes()).hexdigest()
        loader = SeededDataset(self.dataset, self.name, key).batches(
            rows.tolist(),
            batch_size,
            drop_last=drop_last,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        for inputs, targets in loader:
            yield self._ready(inputs), targets.to(self.device)

    def _ready(self, inputs: Tensor) -> Tensor:
        if self.indices:
            return inputs.to(self.device, non_blocking=True).long()
        return (to_float32(inputs.to(self.device, non_blocking=True)) - self.subtract) / self.divide


def _survey(dataset: Dataset[Any], size: int, name: str) -> Survey:
    loading = SeededDataset(dataset, name, "survey")
    threads = torch.get_num_threads()
    # The last digits of sums depend on the number of threads, which differs between processes.
    torch.set_num_threads(1)
    try:
        return _survey_examples(loading, size)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{name} raised {type(error).__name__}: {error}; expected examples (input, class number or "
            "floating target), the inputs tensors of one shape"
        ) from error
    finally:
        torch.set_num_threads(threads)


def _survey_examples(loading: SeededDataset, size: int) -> Survey:
    examples_check = ExamplesCheck(loading.name)
    content = hashlib.sha256(), hashlib.sha256()
    moments = []
    first_form = ""
    for batch in track_progress(loading.batches(range(size), _SURVEY_BATCH), f"going through {loading.name}"):
        inputs, targets = batch
        batch_form = (
            f"{inputs.dtype} of shape {tuple(inputs.shape[1:])} with "
            f"{'floating targets' if targets.is_floating_point() else 'class numbers'} of shape {tuple(targets.shape[1:])}"
        )
        first_form = first_form or batch_form
        if batch_form != first_form:
            raise DataError(
                f"{loading.name} returns inputs of {batch_form} after inputs of {first_form}; expected all alike"
            )
        examples_check.add(inputs, targets)
        for digest, tensor in zip(content, batch, strict=True):
            digest.update(_bytes(tensor))
        moments.append(Moments.of(to_float32(inputs).reshape(-1, 1)))
    examples_check.finish()
    some = range(0, size, max(1, size // _EXAMPLES_REPEATED))
    again = [loading.batch(some) for _ in range(2)]
    repeats = [_bytes(one) == _bytes(other) for one, other in zip(*again, strict=True)]
    values = functools.reduce(Moments.merge, moments)
    return Survey(
        tuple(inputs.shape[1:]),
        tuple(targets.shape[1:]),
        inputs.dtype,
        None if examples_check.labels is None else frozenset(examples_check.labels),
        examples_check.constant_targets,
        values.mean.item(),
        values.variance(unbiased=False).sqrt().item(),
        tuple(digest.hexdigest() if same else "" for digest, same in zip(content, repeats, strict=True)),  # type: ignore[arg-type]
    )


def _bytes(tensor: Tensor) -> bytes:
    return repr((tuple(tensor.shape[1:]), tensor.dtype)).encode() + tensor_bytes(tensor)
