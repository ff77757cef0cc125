"""A data set made ready for training: split, normalised, on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bnkit.data.examples import DataSet, Examples
from bnkit.errors import SettingsError

TrainSet = Literal["normal", "not_normal", "symmetric"]


@dataclass(frozen=True)
class Parts:
    """What a run trains and is measured on; floating-point inputs, all on one device.

    Attributes:
        train: What the network learns from.
        validation: What choices are made on; None if nothing was set aside.
        test: What is reported.
        classes: How many classes there are.
    """

    train: Examples
    validation: Examples | None
    test: Examples
    classes: int


def prepare(data: DataSet, trainset: TrainSet, validation: float, device: torch.device | str = "cpu") -> Parts:
    """``data`` with a validation part split off its training part.

    Args:
        data: The data set. Bytes become float32 from 0 to 1.
        trainset: "normal" subtracts the mean and divides by the deviation of the training part (one number each, over
            all its pixels, the validation part included); "not_normal" leaves the values as they are; "symmetric"
            moves values from 0 to 1 to −1 to 1: mean and deviation 0.5, as in the course's SimpleCNN.
        validation: The share of the training part that is set aside, 0 (none) to below 1. The same examples whatever
            the seed of a run, drawn once from a shuffle of their own.
        device: Where the tensors go.

    Raises:
        SettingsError: The validation part would leave nothing to train on, or be empty.
    """
    size = len(data.train)
    held_out = round(size * validation)
    if validation > 0 and not 0 < held_out < size:
        raise SettingsError(
            f"validation={validation} sets aside {held_out} of {size} training examples; expected 1 to {size - 1}"
        )
    train, test = _floating(data.train.inputs), _floating(data.test.inputs)
    if trainset == "normal":
        deviation, mean = torch.std_mean(train, correction=0)
        # A constant input cannot be scaled; leave it at 0.
        deviation = torch.where(deviation > 0, deviation, 1)
        train, test = (train - mean) / deviation, (test - mean) / deviation
    elif trainset == "symmetric":
        train, test = (train - 0.5) / 0.5, (test - 0.5) / 0.5
    everything = Examples(train.to(device), data.train.targets.to(device))
    tested = Examples(test.to(device), data.test.targets.to(device))
    if not held_out:
        return Parts(everything, None, tested, data.classes)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(device)
    return Parts(everything[order[held_out:]], everything[order[:held_out]], tested, data.classes)


def batches(
    examples: Examples, batch_size: int, order: Tensor | None = None, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """``(inputs, targets)`` by ``batch_size``: rows of tensors that are in memory already, taken by index.

    Args:
        examples: What to take.
        batch_size: Rows a batch; the last one has what is left, or is dropped if it is short and ``drop_last``.
        order: A permutation of the rows, int64, on the examples' device; None for their own order, without a copy.
        drop_last: As in a ``DataLoader``.
    """
    end = len(examples) - len(examples) % batch_size if drop_last else len(examples)
    for start in range(0, end, batch_size):
        if order is None:
            rows = slice(start, start + batch_size)
            yield examples.inputs[rows], examples.targets[rows]
        else:
            chosen = order[start : start + batch_size]
            yield examples.inputs.index_select(0, chosen), examples.targets.index_select(0, chosen)


def _floating(inputs: Tensor) -> Tensor:
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
