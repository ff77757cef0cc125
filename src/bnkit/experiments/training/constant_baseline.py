"""The score of the best constant answer: a network that does not beat it has learned nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnkit.experiments.training.learning_task import Task
from bnkit.experiments.training.metrics import METRICS, is_correct

_VALUE_METRICS = ("mean_absolute_error", "mean_squared_error")


class ConstantBaseline:
    """The score of the best constant answer, computed while a part of the data is evaluated.

    For classes: the share of the most frequent class. For binary labels: the share of the more frequent value, for each label.
    For values: the score of their mean (of their median, for the mean absolute error). It is always 0 for R², and unknown for a
    user's own metric.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts: Tensor | None = None
        self._answers = 0
        self._targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        if self._task.metric is not None:
            if self._task.identity.metric in _VALUE_METRICS:
                self._targets.append(targets)
            return
        if self._task.right is None or (targets.shape == outputs.shape and not targets.is_floating_point()):
            return  # several class numbers for each example: unknown
        of_classes = self._task.right is is_correct or not targets.is_floating_point()
        if of_classes:
            asked = (targets.argmax(1) if targets.is_floating_point() else targets).flatten()
            known = asked[(asked >= 0) & (asked < outputs.shape[1])]  # without ignored targets
            counts, answers = torch.bincount(known, minlength=outputs.shape[1]), len(asked)
        else:
            yes = targets > 0.5
            yes = yes.unsqueeze(1) if yes.dim() == 1 else yes.transpose(1, -1).flatten(0, -2)
            counts, answers = torch.stack([yes.sum(0), (~yes).sum(0)]), yes.numel()
        self._counts = counts if self._counts is None else self._counts + counts
        self._answers += answers

    @property
    def score(self) -> float | None:
        """The score on all batches added; None if it is unknown."""
        if self._counts is not None:
            return float(self._counts.amax(0).sum()) / self._answers
        if not self._targets:
            return None
        name, targets = self._task.identity.metric, torch.cat(self._targets).double()
        constant = targets.median(0).values if name == "mean_absolute_error" else targets.mean(0)
        score = float(METRICS[name](constant.expand(targets.shape), targets))
        return score if math.isfinite(score) else None
