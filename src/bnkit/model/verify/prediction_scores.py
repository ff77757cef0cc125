"""Score a model's predictions: right or wrong, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TargetType = Literal["classes", "yes or no", "shares", "values"]
_LOSSES: dict[TargetType, str] = {
    "classes": "cross-entropy",
    "yes or no": "binary cross-entropy",
    "shares": "cross-entropy",
    "values": "mean squared error",
}


# Smaller than any relevant probability, but with a finite logarithm.
_TINY = 1e-12


class Scores(NamedTuple):
    """The scores of the predictions on a batch.

    Attributes:
        right: (N,), the share of right predictions of each example; None if the targets are values.
        loss: (N,), the mean loss of each example's predictions; inf or NaN if outputs are not finite.
    """

    right: Tensor | None
    loss: Tensor


@dataclass(frozen=True)
class Scoring:
    """Which of a model's outputs is compared with the targets, and by which loss.

    Attributes:
        kind: The kind of targets: class numbers (N, *); yes or no (0 or 1), of the output's shape; shares of the
            classes, (N, classes), which add up to 1; values, of the output's shape.
        position: The index of that output among the floating outputs.
        is_probability: Whether that output holds probabilities, not logits.
        classes: The number of classes to choose from; 0 if the targets are values.
    """

    kind: TargetType
    position: int
    is_probability: bool
    classes: int

    @classmethod
    def of(cls, outputs: Sequence[Tensor], targets: object) -> Scoring | None:
        """The scoring by the first of ``outputs``, floating tensors, that the targets fit; None if they fit none."""
        if not isinstance(targets, Tensor) or targets.dim() < 1 or not len(targets) or targets.is_complex():
            return None
        for position, output in enumerate(outputs):
            kind = _kind(output, targets)
            if kind is not None:
                classes = output.shape[1] if kind in ("classes", "shares") else 2 if kind == "yes or no" else 0
                return cls(kind, position, _is_probability(output, kind), classes)
        return None

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return _LOSSES[self.kind]

    def scores(self, outputs: Sequence[Tensor], targets: Tensor) -> Scores | None:
        """The scores of ``outputs``, on the CPU in float64; None if they do not fit the targets."""
        if self.position >= len(outputs) or _kind(outputs[self.position], targets) is None:
            return None
        output, targets = outputs[self.position].cpu().double(), targets.detach().cpu()
        if self.kind == "classes":
            asked = _class_numbers(targets)
            logits = output.clamp(min=_TINY).log() if self.is_probability else output
            right = (output.argmax(1) == asked) & output.isfinite().all(1)
            return Scores(
                _per_example(right.double()), _per_example(functional.cross_entropy(logits, asked, reduction="none"))
            )
        output, asked = output.reshape(len(output), -1), targets.reshape(len(targets), -1).double()
        finite = output.isfinite()
        if self.kind == "values":
            return Scores(None, _per_example((output - asked).square()))
        if self.kind == "shares":
            logs = output.clamp(min=_TINY).log() if self.is_probability else output.log_softmax(1)
            right = (output.argmax(1) == asked.argmax(1)) & finite.all(1)
            return Scores(right.double(), -torch.where(asked > 0, asked * logs, 0.0).sum(1))
        limit = 0.5 if self.is_probability else 0.0
        right = ((output > limit) == (asked > 0.5)) & finite
        loss = (
            functional.binary_cross_entropy(output.nan_to_num(0.5).clamp(0, 1), asked, reduction="none")
            if self.is_probability
            else functional.binary_cross_entropy_with_logits(output, asked, reduction="none")
        )
        return Scores(_per_example(right.double()), _per_example(torch.where(finite, loss, torch.inf)))


class Spread:
    """The variance of targets that are values: the loss of predicting their mean."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, targets: Tensor) -> None:
        """Add the targets of a batch."""
        values = targets.detach().cpu().double().reshape(len(targets), -1)
        self._count, self._sums = self._count + len(values), self._sums + values.sum(0)
        self._squares = self._squares + values.square().sum(0)

    @property
    def variance(self) -> float:
        """The biased variance, averaged over the values of a target; 0 without targets."""
        if not self._count:
            return 0.0
        return float((self._squares / self._count - (self._sums / self._count).square()).clamp(min=0).mean())


def _kind(output: Tensor, targets: Tensor) -> TargetType | None:
    if output.dim() < 1 or len(output) != len(targets) or not targets.numel():
        return None
    if not targets.is_floating_point() and output.dim() >= 2 and output.shape[1] >= 2:
        numbers = _class_numbers(targets)
        if numbers.shape == (output.shape[0], *output.shape[2:]):
            return "classes" if int(numbers.min()) >= 0 and int(numbers.max()) < output.shape[1] else None
    if output.numel() != targets.numel() or _without_ones(output) != _without_ones(targets):
        return None
    if targets.dim() == 2 and targets.shape[1] > 1 and bool((targets >= 0).all()) and _add_up_to_1(targets, 1e-5):
        return "shares"
    if bool(((targets == 0) | (targets == 1)).all()):
        return "yes or no"
    return "values" if targets.is_floating_point() else None


def _is_probability(output: Tensor, kind: TargetType) -> bool:
    if kind == "values" or not bool(((output >= 0) & (output <= 1)).all()):
        return False
    return kind == "yes or no" or _add_up_to_1(output, 1e-2)


def _add_up_to_1(values: Tensor, tolerance: float) -> bool:
    sums = values.detach().double().sum(1)
    return bool(((sums - 1).abs() <= tolerance).all())


def _class_numbers(targets: Tensor) -> Tensor:
    """``targets`` as (N, *), int64; (N, 1) becomes (N,)."""
    return (targets[:, 0] if targets.dim() == 2 and targets.shape[1] == 1 else targets).long()


def _without_ones(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape[1:] if size != 1]


def _per_example(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)
