"""Metrics against scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from bnkit.experiments.metrics import METRICS, answered, answered_yes_or_no


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("values", [1, 3])
def test_it_is_that_of_scikit_learn(name, values):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(50, values, generator=generator) * 3 + 7
    outputs = targets + torch.randn(50, values, generator=generator)
    expected = getattr(sklearn_metrics, name)(targets.numpy(), outputs.numpy())
    assert float(METRICS[name](outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_explained_of_targets_that_are_all_the_same():
    assert math.isnan(float(METRICS["r2_score"](torch.ones(4, 1), torch.ones(4, 1))))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([1, 1]), [True, False]),
        (torch.tensor([[0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]), [True, True]),
    ],
    ids=["class numbers", "shares"],
)
def test_the_class_with_the_highest_score_answers(targets, expected):
    assert answered(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]]), targets).tolist() == expected


def test_every_position_of_dense_targets_has_an_answer():
    outputs = torch.zeros(1, 2, 2, 2)
    outputs[0, 1, 0] = 1.0
    assert answered(outputs, torch.tensor([[[1, 0], [0, 1]]])).tolist() == [[[True, False], [True, False]]]


def test_a_logit_above_nothing_says_yes():
    outputs, targets = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[1.0], [0.0], [0.0]])
    assert answered_yes_or_no(outputs, targets).flatten().tolist() == [True, True, False]
