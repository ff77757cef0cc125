"""Prepare a data set for training: a validation split, normalised inputs, the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bnkit.data.examples import DataSet, Examples, Split
from bnkit.data.streamed_examples import Streamed
from bnkit.data.tensor_conversion import to_float32
from bnkit.errors import SettingsError

TrainSet = Literal["normal", "not_normal", "symmetric"]


@dataclass(frozen=True)
class Splits:
    """The splits of a run, all on one device; inputs are floating, or int64 if they are indices.

    Attributes:
        train: Trains the network.
        validation: Chooses the learning rate; None if there is none.
        test: Is reported.
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
    """The splits of ``data``, with a validation split taken from its training split.

    Args:
        data: The data set. Bytes become float32 from 0 to 1.
        trainset: "normal" subtracts the mean and divides by the standard deviation of the training split (one number
            each, over all pixels, the validation examples included); "not_normal" does neither; "symmetric" maps 0 to 1
            to −1 to 1 (mean and deviation 0.5, as in the course's SimpleCNN).
        validation: The fraction of the training split for validation, 0 to below 1. The same examples for all seeds.
        device: The device of the tensors.
        num_workers: Worker processes of the ``DataLoader``, if the data are not in memory.
        indices: Whether inputs are indices, such as tokens: they become int64 and are not normalised.

    Raises:
        SettingsError: If the validation split would be empty, or leave nothing to train on.
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
    """Batches ``(inputs, targets)`` of ``examples``.

    Args:
        examples: A split.
        batch_size: Examples a batch; the last batch may be smaller.
        order: A permutation of the examples, int64, on their device; None for their own order, without a copy.
        drop_last: Whether to leave out a smaller last batch, as in a ``DataLoader``.
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
    """What to subtract from the inputs, and what to divide them by; None for "not_normal"."""
    if trainset == "not_normal":
        return None
    if trainset == "symmetric":
        return torch.tensor(0.5), torch.tensor(0.5)
    if isinstance(train, Streamed):
        mean, deviation = torch.tensor(train.survey.mean), torch.tensor(train.survey.deviation)
    else:
        values = to_float32(train.inputs)
        deviation, mean = torch.std_mean(values, correction=0)
        if not 0 < float(deviation) < math.inf:  # squares may overflow or underflow in float32
            deviation, mean = (value.float() for value in torch.std_mean(values.double(), correction=0))
    # Constant inputs become 0.
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
