"""Examples held in memory, and the data set that they make up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from bnkit.data.streamed import Streamed
from bnkit.data.targets import as_targets
from bnkit.errors import DataError


@dataclass(frozen=True)
class Examples:
    """Inputs and their targets.

    Attributes:
        inputs: (N, *), any dtype; images are (N, C, H, W), uint8 from 0 to 255 or floating.
        targets: (N,) or (N, *spatial), int64 class numbers; or (N, values, *), floating, what is to be predicted. Of
            floating targets (N,) become (N, 1): against outputs (N, 1) they would broadcast to (N, N).
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise DataError(f"got {len(self.inputs)} inputs and {len(self.targets)} targets; expected as many of each")
        if self.inputs.dim() < 2 or self.targets.dim() < 1:
            raise DataError(
                f"got inputs of shape {tuple(self.inputs.shape)} and targets of shape {tuple(self.targets.shape)}; "
                "expected (N, ...) with at least one more dimension, and (N,)"
            )
        object.__setattr__(self, "targets", as_targets(self.targets))

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
    def classes(self) -> int | None:
        """The largest class number, plus one; None where the targets are no classes."""
        return None if self.targets.is_floating_point() else int(self.targets.max()) + 1

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return tuple(self.targets.shape[1:])

    def head(self, count: int) -> tuple[Tensor, Tensor]:
        """The inputs, (count, *), and the targets of the first ``count`` examples."""
        return self.inputs[:count], self.targets[:count]

    def raw_head(self, count: int) -> Tensor:
        """The inputs of the first ``count`` examples as they were given."""
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
        if (self.train.classes is None) != (self.test.classes is None):
            raise DataError(
                f"{self.name} has class numbers in one part and floating targets in the other; expected the same in both"
            )
        if self.train.target_shape != self.test.target_shape:
            raise DataError(
                f"{self.name} has training targets of shape {self.train.target_shape} and test targets of shape "
                f"{self.test.target_shape}; expected the same"
            )
        in_memory = [part for part in (self.train, self.test) if isinstance(part, Examples)]
        if self.classes is None:
            if not all(bool(part.targets.isfinite().all()) for part in in_memory):
                raise DataError(f"{self.name} has targets that are inf or NaN; expected finite ones")
        elif any(int(part.targets.min()) < 0 for part in in_memory):
            raise DataError(f"{self.name} has negative class numbers; expected 0 to classes - 1")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return self.train.input_shape

    @property
    def classes(self) -> int | None:
        """How many classes there are: the largest class number, plus one; None where the targets are floating."""
        if self.train.classes is None or self.test.classes is None:
            return None
        return max(self.train.classes, self.test.classes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return self.train.target_shape

    @property
    def out_features(self) -> int:
        """How many outputs a network has for an example: one for each class, or for each value to predict."""
        return self.target_shape[0] if self.classes is None else self.classes

    def reduced(self, train: int, test: int) -> DataSet:
        """So many examples of each part, drawn once; 0 for all of them.

        Raises:
            DataError: There are not so many.
        """
        if not train and not test:
            return self
        parts = []
        for asked, name, part in ((train, "training", self.train), (test, "test", self.test)):
            if asked > len(part):
                raise DataError(f"{asked} examples of the {name} part of {self.name}, which has {len(part)}")
            # Data sets may be sorted by class, so that the first would not do.
            order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
            parts.append(part[order[:asked].to(part.device)] if asked else part)
        digest = hashlib.sha256(f"{self.digest} reduced to {train}, {test}".encode()).hexdigest()
        return DataSet(self.name, digest, *parts)
