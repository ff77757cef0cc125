"""What a constant answer scores, by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from bnkit.experiments.experiment import TaskIdentity
from bnkit.experiments.training.constant_baseline import ConstantBaseline
from bnkit.experiments.training.learning_task import Task
from bnkit.experiments.training.losses import find_named_loss
from bnkit.experiments.training.metrics import METRICS, is_correct

BINARY = find_named_loss(functional.binary_cross_entropy_with_logits)
_GENERATOR = torch.Generator().manual_seed(0)
_LABELS = torch.tensor([0, 1, 1, 2, 1, 0, 2])
_MASKS = (torch.rand(5, 4, 4, generator=_GENERATOR) > 0.3).long()
_YES = (torch.rand(9, 3, generator=_GENERATOR) > torch.tensor([0.2, 0.5, 0.9])).float()
_MASKS_OF_LABELS = (torch.rand(6, 2, 3, 3, generator=_GENERATOR) > 0.4).float()
_VALUES = torch.randn(20, 3, generator=_GENERATOR) * 100 + 1e4


def _score(task, targets, outputs):
    constant = ConstantBaseline(task)
    for own_outputs, own_targets in zip(outputs.split(4), targets.split(4), strict=True):
        constant.add(own_outputs, own_targets)
    return constant.score


@pytest.mark.parametrize(
    ("targets", "outputs", "expected"),
    [
        (_LABELS, torch.zeros(7, 3), 3 / 7),
        (functional.one_hot(_LABELS).float(), torch.zeros(7, 3), 3 / 7),
        (_MASKS, torch.zeros(5, 2, 4, 4), max(_MASKS.float().mean().item(), 1 - _MASKS.float().mean().item())),
        (torch.tensor([0, -100, -100, 1, 1]), torch.zeros(5, 2), 2 / 5),
    ],
    ids=["classes", "shares", "masks", "ignored"],
)
def test_of_classes_it_is_the_share_of_the_most_frequent(targets, outputs, expected):
    assert _score(Task(right=is_correct), targets, outputs) == pytest.approx(expected)


@pytest.mark.parametrize("targets", [_YES, _YES[:, 0], _MASKS_OF_LABELS], ids=["labels", "one label", "masks"])
def test_of_yes_or_no_it_is_the_more_frequent_answer_to_each_label(targets):
    values = targets.numpy().reshape(len(targets), -1 if targets.dim() > 1 else 1)
    if targets.dim() == 4:
        values = np.moveaxis(targets.numpy(), 1, -1).reshape(-1, 2)
    share = values.mean(0)
    expected = np.maximum(share, 1 - share).mean()
    assert _score(Task(right=BINARY.right), targets, targets) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mean_squared_error", np.var(_VALUES.double().numpy(), axis=0).mean()),
        (
            "mean_absolute_error",
            np.abs(_VALUES.double().numpy() - np.sort(_VALUES.double().numpy(), axis=0)[9]).mean(),
        ),
        ("r2_score", None),  # it is 0 by its definition, and need not be measured
    ],
)
def test_of_values_it_is_what_their_mean_or_median_scores(metric, expected):
    score = _score(Task(TaskIdentity(metric=metric), right=None, metric=METRICS[metric]), _VALUES, _VALUES)
    assert score == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_of_a_metric_of_ones_own_it_is_not_known():
    task = Task(TaskIdentity(metric="nets.py:own#0123"), right=None, metric=lambda outputs, targets: torch.tensor(1.0))
    assert _score(task, _VALUES, _VALUES) is None
    assert ConstantBaseline(Task()).score is None
