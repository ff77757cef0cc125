"""A data set made ready for training: split, normalised, on its device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bnkit.data.examples import DataSet, Examples, Split
from bnkit.data.inputs import to_float32
from bnkit.data.loaded import Streamed
from bnkit.errors import SettingsError

TrainSet = Literal["normal", "not_normal", "symmetric"]


@dataclass(frozen=True)
class Splits:
    """What a run trains and is measured on, all on one device; inputs are floating, or int64 where they are indices.

    Attributes:
        train: What the network learns from.
        validation: What choices are made on; None if nothing was set aside.
        test: What is reported.
    """

    train: Split
    validation: Split | None
    test: Split


def prepare(
    data: DataSet,
    trainset: TrainSet,
    validation: float,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    *,
    indices: bool = False,
) -> Splits:
    """``data`` with a validation part split off its training part.

    Args:
        data: The data set. Bytes become float32 from 0 to 1.
        trainset: "normal" subtracts the mean and divides by the deviation of the training part (one number each, over
            all its pixels, the validation part included); "not_normal" leaves the values as they are; "symmetric"
            moves values from 0 to 1 to −1 to 1: mean and deviation 0.5, as in the course's SimpleCNN.
        validation: The share of the training part that is set aside, 0 (none) to below 1. The same examples whatever
            the seed of a run, drawn once from a shuffle of their own.
        device: Where the tensors go.
        num_workers: Processes that load, where the data are not in memory.
        indices: Inputs are integers that a network looks something up by (tokens): they become int64, and nothing is
            subtracted or divided.

    Raises:
        SettingsError: The validation part would leave nothing to train on, or be empty.
    """
    size = len(data.train)
    held_out = round(size * validation)
    if validation > 0 and not 0 < held_out < size:
        raise SettingsError(
            f"validation={validation} sets aside {held_out} of {size} training examples; expected 1 to {size - 1}"
        )
    normalisation = None if indices else _normalisation(data.train, trainset)
    everything, tested = (
        _ready(part, normalisation, torch.device(device), num_workers, indices=indices)
        for part in (data.train, data.test)
    )
    if not held_out:
        return Splits(everything, None, tested)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(device)
    return Splits(everything[order[held_out:]], everything[order[:held_out]], tested)


def batches(
    examples: Split, batch_size: int, order: Tensor | None = None, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """``(inputs, targets)`` by ``batch_size``: rows of tensors that are in memory already, taken by index.

    Args:
        examples: What to take.
        batch_size: Rows a batch; the last one has what is left, or is dropped if it is short and ``drop_last``.
        order: A permutation of the rows, int64, on the examples' device; None for their own order, without a copy.
        drop_last: As in a ``DataLoader``.
    """
    if isinstance(examples, Streamed):
        yield from examples.batches(batch_size, order, drop_last)
        return
    end = len(examples) - len(examples) % batch_size if drop_last else len(examples)
    for start in range(0, end, batch_size):
        if order is None:
            rows = slice(start, start + batch_size)
            yield examples.inputs[rows], examples.targets[rows]
        else:
            chosen = order[start : start + batch_size]
            yield examples.inputs.index_select(0, chosen), examples.targets.index_select(0, chosen)


def _normalisation(train: Split, trainset: TrainSet) -> tuple[Tensor, Tensor] | None:
    """What is subtracted, and what is divided by; None for nothing."""
    if trainset == "not_normal":
        return None
    if trainset == "symmetric":
        return torch.tensor(0.5), torch.tensor(0.5)
    if isinstance(train, Streamed):
        mean, deviation = torch.tensor(train.survey.mean), torch.tensor(train.survey.deviation)
    else:
        values = to_float32(train.inputs)
        deviation, mean = torch.std_mean(values, correction=0)
        if not 0 < float(deviation) < math.inf:  # squares may be too large or too small for float32
            deviation, mean = (value.float() for value in torch.std_mean(values.double(), correction=0))
    # A constant input cannot be scaled; leave it at 0.
    return mean, torch.where(deviation > 0, deviation, 1)


def _ready(
    part: Split, normalisation: tuple[Tensor, Tensor] | None, device: torch.device, num_workers: int, *, indices: bool
) -> Split:
    """``part`` with normalised inputs on ``device``."""
    if isinstance(part, Streamed):
        subtract, divide = (0.0, 1.0) if normalisation is None else (value.item() for value in normalisation)
        loading = replace(part, device=device, num_workers=num_workers, indices=indices)
        return replace(loading, subtract=subtract, divide=divide)
    inputs = part.inputs.long() if indices else to_float32(part.inputs)
    if normalisation is not None:
        inputs = (inputs - normalisation[0]) / normalisation[1]
    return Examples(inputs.to(device), part.targets.to(device))
