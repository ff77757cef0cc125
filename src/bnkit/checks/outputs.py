"""What a model answers in evaluation, under its moving averages and under the statistics of the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bnkit.model.example import tensors_in


@dataclass
class Effect:
    """What the statistics of the data do to the outputs of a model, against its moving averages.

    Attributes:
        examples: How many class numbers were compared with an answer; 0 where there are none.
        right_by_average, right_by_data: How many answers were right.
        gained, lost: How many answers only the statistics of the data, and only the moving averages, got right.
        change: The root of the mean squared difference of the outputs over that of the outputs by the statistics of the data,
            on the first batch; None where no floating-point tensor is returned, infinite where one is not finite.
    """

    examples: int = 0
    right_by_average: int = 0
    right_by_data: int = 0
    gained: int = 0
    lost: int = 0
    change: float | None = None

    @property
    def accuracy_by_average(self) -> float:
        """With the moving averages."""
        return self.right_by_average / self.examples

    @property
    def accuracy_by_data(self) -> float:
        """With the statistics of the data."""
        return self.right_by_data / self.examples

    def with_more(self, other: Effect) -> Effect:
        """This one, and the answers that ``other`` counted."""
        counts = ("examples", "right_by_average", "right_by_data", "gained", "lost")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in counts})

    @property
    def chance(self) -> float:
        """How likely the gain would be by chance if both were equally good: an exact test of the pairs that differ."""
        from scipy.special import bdtrc  # a while to load, and mostly not needed

        pairs = self.gained + self.lost
        return float(bdtrc(self.gained - 1, pairs, 0.5)) if pairs else 1.0


@dataclass
class Answers:
    """What a model answered to some batches: whether each was right, and the outputs to the first.

    Attributes:
        right: For each batch, a bool tensor (N,); None where there is nothing to compare with.
        first: The floating-point tensors of the first output.
    """

    right: list[Tensor | None] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)

    def add(self, output: Any, batch: Any) -> None:
        """Take in what the model returned for ``batch``."""
        if not self.right:
            self.first = [t.detach().clone() for _, t in tensors_in(output) if t.is_floating_point()]
        self.right.append(_right(output, batch))

    def against(self, by_data: Answers) -> Effect:
        """The effect of the statistics of the data; these are the answers by moving averages."""
        effect = Effect(change=_change(by_data.first, self.first))
        for own, other in zip(self.right, by_data.right, strict=True):
            if own is not None and other is not None:
                effect.examples += len(own)
                effect.right_by_average += int(own.sum())
                effect.right_by_data += int(other.sum())
                effect.gained += int((other & ~own).sum())
                effect.lost += int((own & ~other).sum())
        return effect


def _right(output: Any, batch: Any) -> Tensor | None:
    """Whether the class with the highest score is the right one; None where the batch holds no class numbers."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return None
    targets = batch[1]
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype not in (torch.int64, torch.int32):
        return None
    scores = next((t for _, t in tensors_in(output) if t.is_floating_point() and t.dim() == 2), None)
    if scores is None or len(scores) != len(targets) or scores.shape[1] < 2:
        return None
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= scores.shape[1]):
        return None
    return (scores.argmax(1).cpu() == targets.cpu()) & scores.isfinite().all(1).cpu()


def _change(by_data: list[Tensor], by_average: list[Tensor]) -> float | None:
    if [tensor.shape for tensor in by_data] != [tensor.shape for tensor in by_average] or not by_data:
        return None
    differences = sum(
        float((one.double() - other.double()).square().sum()) for one, other in zip(by_data, by_average, strict=True)
    )
    magnitude = sum(float(one.double().square().sum()) for one in by_data)
    if differences != differences or magnitude != magnitude:  # noqa: PLR0124 - NaN
        return float("inf")
    return (differences / magnitude) ** 0.5 if magnitude > 0 else float(differences > 0)
