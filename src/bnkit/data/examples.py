"""Examples in memory, and the data set: a training and a test split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnkit.data.examples_check import ExamplesCheck
from bnkit.data.labels import canonical_targets, describe_labels, suggest_fix, unique_labels
from bnkit.data.streamed_examples import Streamed
from bnkit.data.tensor_conversion import prefix_errors, to_float32, to_strided
from bnkit.data_digest import reduced_digest
from bnkit.errors import DataError

# Examples that are sampled to estimate the scale of the inputs, and to guess what targets mean.
_INPUTS_LOOKED_AT, _TARGETS_LOOKED_AT = 1000, 100
# A ratio of the deviations of the two splits from which they were probably scaled differently.
_UNLIKE = 10
# More than the largest vocabularies: larger labels are values or identifiers.
_MOST_CLASSES = 2**24
# Channels of an image: grey, RGB, RGBA.
IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Examples:
    """Inputs and their targets, in memory.

    Attributes:
        inputs: (N, *), any dtype; images are (N, C, H, W), uint8 from 0 to 255 or floating.
        targets: (N,) or (N, *spatial), int64 class numbers; or (N, values, *), floating. Floating targets (N,) become
            (N, 1), because with outputs (N, 1) they would broadcast to (N, N).
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        for name in ("inputs", "targets"):
            object.__setattr__(self, name, to_strided(getattr(self, name), name))
        if self.inputs.dim() < 2 or self.targets.dim() < 1:
            raise DataError(
                f"got inputs of shape {tuple(self.inputs.shape)} and targets of shape {tuple(self.targets.shape)}; "
                "expected (N, ...) with at least one more dimension, and (N,)"
            )
        if len(self.inputs) != len(self.targets):
            raise DataError(f"got {len(self.inputs)} inputs and {len(self.targets)} targets; expected as many of each")
        object.__setattr__(self, "targets", canonical_targets(self.targets, self.inputs.dim()))

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, name: str) -> Examples:
        """``Examples`` whose error messages begin with ``name``.

        Raises:
            DataError: If the inputs and the targets do not fit together.
        """
        with prefix_errors(name):
            return cls(inputs, targets)

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
    def dtype(self) -> torch.dtype:
        """The dtype of the inputs."""
        return self.inputs.dtype

    @property
    def deviation(self) -> float:
        """The standard deviation of the inputs, estimated from at most a thousand of them."""
        some = self.inputs[:: max(1, len(self) // _INPUTS_LOOKED_AT)]
        return float(to_float32(some).double().std(correction=0))

    @property
    def classes(self) -> int | None:
        """The largest class number plus one; None if the targets are floating."""
        return None if self.targets.is_floating_point() else int(self.targets.max()) + 1

    @property
    def labels(self) -> frozenset[int] | None:
        """The class numbers that occur; None if the targets are floating."""
        return None if self.targets.is_floating_point() else frozenset(unique_labels(self.targets))

    @property
    def constant_targets(self) -> bool:
        """Whether all targets are the same."""
        return bool((self.targets == self.targets[:1]).all())

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return tuple(self.targets.shape[1:])

    def head(self, count: int) -> tuple[Tensor, Tensor]:
        """The inputs, (count, *), and the targets of the first ``count`` examples."""
        return self.inputs[:count], self.targets[:count]

    def raw_head(self, count: int) -> Tensor:
        """The inputs of the first ``count`` examples, unchanged."""
        return self.inputs[:count]

    def __getitem__(self, rows: Tensor | slice) -> Examples:
        return Examples(self.inputs[rows], self.targets[rows])


# One split of a data set: in memory, or loaded batch by batch.
Split = Examples | Streamed


@dataclass(frozen=True)
class DataSet:
    """A named data set with a training and a test split.

    Attributes:
        name: What the user calls it.
        digest: SHA-256 (hexadecimal) of its source: two data sets with one digest hold the same examples.
        train, test: The splits.
        notes: Remarks on how it was read, for the user, a line each.
    """

    name: str
    digest: str
    train: Split
    test: Split
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, examples in (("training", self.train), ("test", self.test)):
            if len(examples) == 0:
                raise DataError(f"the {part} part of {self.name} is empty; expected at least one example")
        if self.train.input_shape != self.test.input_shape:
            raise DataError(
                f"{self.name} has training inputs of shape {self.input_shape} and test inputs of shape "
                f"{self.test.input_shape}; expected the same"
            )
        if (self.train.dtype == torch.uint8) != (self.test.dtype == torch.uint8):
            raise DataError(
                f"{self.name} has training inputs of {self.train.dtype} and test inputs of {self.test.dtype}; expected the "
                "same: torch.uint8 is divided by 255, and no other"
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
        for part, examples in (("training", self.train), ("test", self.test)):
            if isinstance(examples, Examples):  # a Dataset was checked by its survey
                ExamplesCheck.of(examples.inputs, examples.targets, f"the {part} part of {self.name}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without N."""
        return self.train.input_shape

    @property
    def classes(self) -> int | None:
        """The number of classes: the largest class number plus one; None if the targets are floating."""
        if self.train.classes is None or self.test.classes is None:
            return None
        return max(self.train.classes, self.test.classes)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target, without N."""
        return self.train.target_shape

    @property
    def out_features(self) -> int:
        """The number of outputs that a network needs: one for each class, or for each value to predict."""
        return self.target_shape[0] if self.classes is None else self.classes

    def refuse_unlearnable(self) -> None:
        """Raise if no network can learn from the targets.

        Raises:
            DataError: If all training targets are the same, or labels are too large to have an output each.
        """
        if self.classes is not None and self.classes > _MOST_CLASSES:
            raise DataError(
                f"{self.name} has labels up to {self.classes - 1}, and a network has an output for each class; expected class "
                "numbers from 0 on (torch.unique(targets, return_inverse=True)[1]), or floating targets for values to predict"
            )
        if self.train.constant_targets and len(self.train) > 1:
            what = "targets" if self.train.labels is None else describe_labels(self.train.labels)
            raise DataError(
                f"the training part of {self.name} has {what} alone, the same for all {len(self.train)} examples; expected "
                "targets that differ: if the data are sorted, shuffle them before they are split"
            )

    def remarks(self) -> list[str]:
        """Warnings for the user before a comparison, a line each."""
        remarks = list(self.notes)
        if self.channels_stand_last:
            remarks.append(
                f"{self.name} has inputs of shape {self.input_shape}: {self.input_shape[0]} channels, as PyTorch counts; if the "
                "channels stand last, give inputs.permute(0, 3, 1, 2)"
            )
        trained, tested = self.train.deviation, self.test.deviation
        if min(trained, tested) * _UNLIKE < max(trained, tested):
            remarks.append(
                f"the training inputs of {self.name} have a deviation of {trained:.3g}, the test inputs of {tested:.3g}: if one "
                "part was scaled, scale the other alike"
            )
        if self.train.labels is None or self.test.labels is None:
            if self.test.constant_targets:
                remarks.append(f"the targets of the test part of {self.name} are all the same: R² is undefined there")
            return remarks
        unseen = self.test.labels - self.train.labels
        if unseen:
            remarks.append(
                f"the test part of {self.name} has {describe_labels(unseen)}, which the training part lacks: no network can learn "
                "them"
            )
        labels = self.train.labels | self.test.labels
        absent = max(labels) + 1 - len(labels)
        if absent:
            remarks.append(
                f"{self.name} has {describe_labels(labels)}: class numbers count from 0, so that a network needs {max(labels) + 1} "
                f"outputs, {absent} of them for labels that do not occur"
            )
        return remarks

    @property
    def channels_stand_last(self) -> bool:
        """Whether the inputs look like images (H, W, C), which PyTorch reads as H channels."""
        shape = self.input_shape
        return len(shape) == 3 and shape[2] in IMAGE_CHANNELS and shape[0] not in IMAGE_CHANNELS

    def suggest_fix(self, outputs: tuple[int, ...]) -> str:
        """Advice that ends a message about outputs of a shape that the targets do not fit; may be empty."""
        labels = None if self.train.labels is None or self.test.labels is None else self.train.labels | self.test.labels
        advice = suggest_fix(labels, self.train.head(_TARGETS_LOOKED_AT)[1], outputs)
        return f"; {advice}" if advice else ""

    def reduced(self, train: int, test: int) -> DataSet:
        """A data set with ``train`` and ``test`` random examples of the splits, the same in every call; 0 for all.

        Raises:
            DataError: If a split has fewer.
        """
        if not train and not test:
            return self
        splits = []
        for asked, name, part in ((train, "training", self.train), (test, "test", self.test)):
            if asked > len(part):
                raise DataError(f"{asked} examples of the {name} part of {self.name}, which has {len(part)}")
            # Not the first ones: data sets may be sorted by class.
            order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
            splits.append(part[order[:asked].to(part.device)] if asked else part)
        return DataSet(self.name, reduced_digest(self.digest, train, test), splits[0], splits[1], self.notes)
