"""Decide by predictions on data whether a changed model may replace the previous one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from bnkit.errors import ModelError
from bnkit.message_parts import plural
from bnkit.model.inspect.batches import Forward
from bnkit.model.verify.compare_predictions import effect_of
from bnkit.model.verify.prediction_changes import PredictionChanges

# On data, outputs that should stay the same may change by this share of their size, or by this multiple of the square
# root of the machine epsilon.
_CHANGE, _ROUNDING = 0.01, 4


@dataclass(frozen=True)
class Outcome:
    """The effect of a change on a model's predictions, and whether it is a loss.

    Attributes:
        effect: The comparison of the predictions before and after.
        where: The data, such as "on the test part of digits".
        limit: The share of their size by which outputs may change; None if they are meant to change.
    """

    effect: PredictionChanges
    where: str = "on the data"
    limit: float | None = None

    @classmethod
    def of(
        cls,
        before: nn.Module,
        after: nn.Module,
        batches: Any = None,
        forward: Forward | None = None,
        *,
        example_inputs: Any = None,
        where: str = "on the data",
        keeps_outputs: bool = False,
    ) -> Outcome:
        """The outcome of changing ``before`` to ``after``.

        Args:
            before, after, batches, forward, example_inputs: As for ``effect_of``.
            where: The description of ``batches`` in messages.
            keeps_outputs: Whether the two are meant to compute the same.
        """
        effect = effect_of(before, after, batches, forward, example_inputs=example_inputs)
        return cls(effect, where, _limit(before) if keeps_outputs else None)

    @property
    def is_loss(self) -> bool:
        """Whether the model became worse, or its outputs changed although they should not."""
        change = self.effect.change
        differs = self.limit is not None and change is not None and not change <= self.limit
        return self.effect.is_worse or differs

    @property
    def line(self) -> str:
        """The effect in one line."""
        return f"{self.where}: {self.effect.summary}{' (worse than before)' if self.is_loss else ''}"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {**self.effect.to_json(), "where": self.where, "is_loss": self.is_loss}

    def refuse_loss(self, what: str, expected: str = "expected no loss") -> None:
        """Raise if the change is a loss.

        Args:
            what: The subject of the message: the thing that was changed.
            expected: The end of the message: the expectation, and the next step.

        Raises:
            ModelError: The change is a loss; the message has the figures.
        """
        if self.is_loss:
            examples = f" ({plural(self.effect.examples, 'example')})" if self.effect.examples else ""
            verb = "is worse than before" if self.effect.is_worse else "computes something else"
            raise ModelError(
                f"{what} {verb} {self.where}: {self.effect.summary}{examples}; nothing was written; {expected}"
            )


def _limit(model: nn.Module) -> float:
    tensors = chain(model.parameters(), model.buffers())
    coarsest = max((torch.finfo(tensor.dtype).eps for tensor in tensors if tensor.is_floating_point()), default=0.0)
    return max(_CHANGE, _ROUNDING * math.sqrt(coarsest))
