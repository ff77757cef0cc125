"""Examples held in memory, and the data set that they make up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnkit.data.streamed import Streamed
from bnkit.errors import DataError


@dataclass(frozen=True)
class Examples:
    """Inputs and their targets.

    Attributes:
        inputs: (N, *), any dtype; images are (N, C, H, W), uint8 from 0 to 255 or floating.
        targets: (N,), int64 class numbers.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"got {len(self.inputs)} inputs and {len(self.targets)} targets; expected as many of each")
        if self.inputs.dim() < 2 or self.targets.dim() != 1:
            raise DataError(
                f"got inputs of shape {tuple(self.inputs.shape)} and targets of shape {tuple(self.targets.shape)}; "
                "expected (N, ...) with at least one more dimension, and (N,)"
            )
        if self.targets.is_floating_point() or self.targets.is_complex():
            raise DataError(f"got targets of {self.targets.dtype}; expected class numbers, torch.int64")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.inputs.device

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return tuple(self.inputs.shape[1:])

    @property
    def classes(self) -> int:
        """The largest class number, plus one."""
        return int(self.targets.max()) + 1

    def head(self, count: int) -> Tensor:
        """The inputs of the first ``count`` examples, (count, *)."""
        return self.inputs[:count]

    def __getitem__(self, rows: Tensor | slice) -> Examples:
        return Examples(self.inputs[rows], self.targets[rows])


# What a data set is made of: held in memory, or loaded batch by batch.
Part = Examples | Streamed


@dataclass(frozen=True)
class DataSet:
    """A named data set with its two published parts.

    Attributes:
        name: How the user calls it.
        digest: SHA-256 (hexadecimal) of what it was read from: two data sets with one digest hold the same examples.
        train, test: The parts.
    """

    name: str
    digest: str
    train: Part
    test: Part

    def __post_init__(self) -> None:
        for part, examples in (("training", self.train), ("test", self.test)):
            if len(examples) == 0:
                raise DataError(f"the {part} part of {self.name} is empty; expected at least one example")
        if self.train.input_shape != self.test.input_shape:
            raise DataError(
                f"{self.name} has training inputs of shape {self.input_shape} and test inputs of shape "
                f"{self.test.input_shape}; expected the same"
            )
        in_memory = [part for part in (self.train, self.test) if isinstance(part, Examples)]
        if any(int(part.targets.min()) < 0 for part in in_memory):
            raise DataError(f"{self.name} has negative class numbers; expected 0 to classes - 1")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return self.train.input_shape

    @property
    def classes(self) -> int:
        """How many classes there are: the largest class number, plus one."""
        return max(self.train.classes, self.test.classes)
