"""What the best constant answer scores: a network that is no better has learned nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnkit.experiments.metrics import answered, mean_absolute_error, mean_squared_error
from bnkit.experiments.task import Task


class ConstantAnswer:
    """The score of the best constant answer, gathered while a part of the data is measured.

    For classes it is the share of the most frequent one; for yes or no, of the more frequent of both, for each label; for
    values it is what their mean scores (the median, by the mean absolute error). By R² that is 0, whatever the data; by a metric
    of the user's own it is not known.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts: Tensor | None = None
        self._answers = 0
        self._targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        if self._task.metric is not None:
            if self._task.metric in _VALUES:
                self._targets.append(targets)
            return
        if self._task.right is None:
            return
        if self._task.right is answered:
            asked = (targets.argmax(1) if targets.is_floating_point() else targets).flatten()
            known = asked[(asked >= 0) & (asked < outputs.shape[1])]  # what is to be ignored is no class
            counts = torch.bincount(known, minlength=outputs.shape[1])
        else:
            yes = targets > 0.5
            yes = yes.unsqueeze(1) if yes.dim() == 1 else yes.transpose(1, -1).flatten(0, -2)
            counts = torch.stack([yes.sum(0), (~yes).sum(0)])
        self._counts = counts if self._counts is None else self._counts + counts
        self._answers += targets.numel() if counts.dim() > 1 or not targets.is_floating_point() else len(asked)

    @property
    def score(self) -> float | None:
        """What it scores on all that was added; None where that is not known."""
        if self._counts is not None:
            return float(self._counts.amax(0).sum()) / self._answers
        if not self._targets:
            return None
        assert self._task.metric is not None
        targets = torch.cat(self._targets).double()
        by_median = self._task.metric is mean_absolute_error
        constant = targets.median(0).values if by_median else targets.mean(0)
        score = float(self._task.metric(constant.expand(targets.shape), targets))
        return score if math.isfinite(score) else None


_VALUES = (mean_absolute_error, mean_squared_error)
