"""What the best constant answer scores: a network that is no better has learned nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnkit.experiments.training.metrics import METRICS, is_correct
from bnkit.experiments.training.task import Task

_OF_VALUES = ("mean_absolute_error", "mean_squared_error")


class ConstantAnswer:
    """The score of the best constant answer, gathered while a part of the data is measured.

    For classes it is the share of the most frequent one; for yes or no, of the more frequent of both, for each label; for
    values it is what their mean scores (the median, by the mean absolute error). By R² that is always 0; by a metric of
    the user's own it is not known.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts: Tensor | None = None
        self._answers = 0
        self._targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        if self._task.metric is not None:
            if self._task.identity.metric in _OF_VALUES:
                self._targets.append(targets)
            return
        if self._task.right is None or (targets.shape == outputs.shape and not targets.is_floating_point()):
            return  # numbers of several classes each: not known
        of_classes = self._task.right is is_correct or not targets.is_floating_point()
        if of_classes:
            asked = (targets.argmax(1) if targets.is_floating_point() else targets).flatten()
            known = asked[(asked >= 0) & (asked < outputs.shape[1])]  # without those that are to be ignored
            counts, answers = torch.bincount(known, minlength=outputs.shape[1]), len(asked)
        else:
            yes = targets > 0.5
            yes = yes.unsqueeze(1) if yes.dim() == 1 else yes.transpose(1, -1).flatten(0, -2)
            counts, answers = torch.stack([yes.sum(0), (~yes).sum(0)]), yes.numel()
        self._counts = counts if self._counts is None else self._counts + counts
        self._answers += answers

    @property
    def score(self) -> float | None:
        """What it scores on all that was added; None where that is not known."""
        if self._counts is not None:
            return float(self._counts.amax(0).sum()) / self._answers
        if not self._targets:
            return None
        name, targets = self._task.identity.metric, torch.cat(self._targets).double()
        constant = targets.median(0).values if name == "mean_absolute_error" else targets.mean(0)
        score = float(METRICS[name](constant.expand(targets.shape), targets))
        return score if math.isfinite(score) else None
