"""Loss, accuracy and metric of a part of the data: accumulated over batches, in training and in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnkit.data import Split, batches
from bnkit.experiments.training.constant_baseline import ConstantBaseline
from bnkit.experiments.training.distributed import SINGLE_PROCESS, Processes
from bnkit.experiments.training.learning_task import Task
from bnkit.model import normalising_by, population_statistics

# Evaluation keeps no gradients, so that its batches may be larger than those of training.
_BATCH_SIZE = 1000


class EpochMetrics(NamedTuple):
    """The metrics of a part of the data after an epoch; None for missing ones.

    Attributes:
        answers: The number of answers behind ``accuracy``.
        scores: (examples,), the score of each example, if it is kept; their mean is the metric of the comparison. Bool if each
            has one answer, else floating.
    """

    loss: float | None = None
    accuracy: float | None = None
    metric: float | None = None
    answers: int | None = None
    scores: Tensor | None = None


class MetricsSum:
    """Accumulates metrics over batches, and waits for the device only at the end."""

    def __init__(
        self, task: Task, device: torch.device, processes: Processes = SINGLE_PROCESS, *, keep_scores: bool = False
    ) -> None:
        self._task, self._processes, self._keep_scores = task, processes, keep_scores
        self._rights: list[Tensor] = []
        self._loss, self._right = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self._examples = self._answers = 0
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor, weight: float | None = None) -> None:
        """Add a batch without gradients; its mean ``loss`` counts ``weight`` times, by default once for each target."""
        self._loss += loss * (len(targets) if weight is None else weight)  # a short last batch counts by its size
        self._examples += len(targets)
        if self._task.right is not None:
            right = self._task.right(outputs, targets)
            self._right += right.sum()
            self._answers += right.numel()
            if self._keep_scores and self._task.metric is None:
                self._rights.append(_share_right(right))
        if self._task.metric is not None:
            self._outputs.append(outputs.detach())
            self._targets.append(targets)

    @property
    def is_finite(self) -> bool:
        """Whether the loss has been finite so far. Waits for the device."""
        return math.isfinite(self._processes.all_reduce(self._loss).item())

    def compute(self) -> EpochMetrics:
        """The metrics of all batches added; None for a non-finite loss or metric."""
        metric, scores = None, torch.cat(self._rights) if self._rights else None
        if self._task.metric is not None:
            gathered = [self._processes.all_gather_rows(torch.cat(rows)) for rows in (self._outputs, self._targets)]
            metric = finite_or_none(float(self._task.metric(*gathered)))
            if self._keep_scores and self._task.example_scores is not None:
                scores = self._task.example_scores(*gathered)
        counts = (self._loss.new_tensor(count) for count in (self._examples, self._answers))
        sums = torch.stack([self._loss, self._right, *counts])
        loss, right, examples, answers = self._processes.all_reduce(sums).tolist()
        accuracy = right / answers if answers else None
        return EpochMetrics(finite_or_none(loss / examples), accuracy, metric, int(answers) or None, scores)


def evaluate(
    model: nn.Module,
    split: Split,
    task: Task,
    constant: ConstantBaseline | None = None,
    *,
    keep_scores: bool = False,
) -> EpochMetrics:
    """The metrics of ``split`` in evaluation mode, those of each example too if asked; also adds its batches to ``constant``."""
    metrics = MetricsSum(task, split.device, keep_scores=keep_scores)
    model.eval()
    with torch.no_grad():
        for inputs, targets in batches(split, _BATCH_SIZE):
            outputs = model(inputs)
            metrics.add(task.loss(outputs, targets), outputs, targets)
            if constant is not None:
                constant.add(outputs, targets)
    model.train()
    return metrics.compute()


def evaluate_with_population_statistics(
    model: nn.Module, train: Split, test: Split, task: Task, *, keep_scores: bool = False
) -> EpochMetrics:
    """The metrics of ``test`` with the statistics of ``train`` instead of the moving average."""
    statistics = population_statistics(model, _shuffled_batches(train))
    if not statistics:
        return EpochMetrics()
    with normalising_by(model, statistics):
        return evaluate(model, test, task, keep_scores=keep_scores)


def _share_right(right: Tensor) -> Tensor:
    """(examples,): whether the answer of each is right; for several answers, the share of right ones."""
    answers = right.flatten(1) if right.dim() > 1 else right[:, None]
    return answers[:, 0] if answers.shape[1] == 1 else answers.double().mean(1)


def finite_or_none(value: float) -> float | None:
    """``value``, or None if it is not finite, as in records."""
    return value if math.isfinite(value) else None


def _shuffled_batches(split: Split) -> Iterator[Tensor]:
    """Shuffled inputs, without a last batch of one: batches of a single class each would have other statistics."""
    drop_last = len(split) % _BATCH_SIZE == 1 and len(split) > 1
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(split), generator=generator).to(split.device)
    return (inputs for inputs, _ in batches(split, _BATCH_SIZE, order, drop_last))
