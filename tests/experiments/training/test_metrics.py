"""Metrics against scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch.nn import functional

from bnkit.errors import DataError
from bnkit.experiments.training.losses import find_named_loss
from bnkit.experiments.training.metrics import EXAMPLE_SCORES, METRICS, is_correct

BINARY = find_named_loss(functional.binary_cross_entropy_with_logits)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("values", [1, 3])
def test_metrics_equal_scikit_learns(name, values):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(50, values, generator=generator) * 3 + 7
    outputs = targets + torch.randn(50, values, generator=generator)
    expected = getattr(sklearn_metrics, name)(targets.numpy(), outputs.numpy())
    assert float(METRICS[name](outputs, targets)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("shape", [(50, 1), (50, 3), (50, 2, 3)], ids=str)
def test_a_metric_is_the_mean_of_what_the_examples_score(name, shape):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(shape, generator=generator) * 3 + 7
    outputs = targets + torch.randn(shape, generator=generator)
    scores = EXAMPLE_SCORES[name](outputs, targets)
    assert scores.shape == (50,)
    assert scores.mean().item() == pytest.approx(float(METRICS[name](outputs, targets)), rel=1e-9)


def test_what_examples_score_in_r2_varies_as_r2_does_over_samples():
    """Against the deviation of R² over samples of 400 examples."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(500, 400, 1, generator=generator)
    outputs = 0.7 * targets + 0.5 * torch.randn(500, 400, 1, generator=generator)
    computed = torch.tensor([float(METRICS["r2_score"](o, t)) for o, t in zip(outputs, targets, strict=True)])
    errors = [EXAMPLE_SCORES["r2_score"](o, t).std() / 20 for o, t in zip(outputs, targets, strict=True)]
    assert torch.stack(errors).mean().item() == pytest.approx(computed.std().item(), rel=0.1)


@pytest.mark.parametrize("shape", [(50, 4), (50, 2, 5, 5)], ids=["values", "images"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1], ids=str)
def test_targets_that_are_constant_are_left_out(shape, constant):
    """0.1 is not the mean of fifty times 0.1, to the bit."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randn(shape, generator=generator)
    outputs = targets + torch.randn(shape, generator=generator)
    targets[:, 1] = constant
    varied = [
        values.flatten(1)[:, (targets != targets[:1]).any(0).flatten()].double().numpy()
        for values in (targets, outputs)
    ]
    assert float(METRICS["r2_score"](outputs, targets)) == pytest.approx(sklearn_metrics.r2_score(*varied), rel=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0], ids=str)
def test_nothing_is_explained_of_targets_that_are_all_the_same(constant):
    targets = torch.full((7, 2), constant)
    for outputs in (targets, targets + 1):
        assert math.isnan(float(METRICS["r2_score"](outputs, targets)))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_large_values_do_not_overflow(name):
    targets = torch.tensor([[1e25], [-1e25], [3e25]])
    outputs = targets.flip(0)
    expected = getattr(sklearn_metrics, name)(targets.double().numpy(), outputs.double().numpy())
    assert float(METRICS[name](outputs, targets)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("shape", [(5,), (5, 5), (1, 1)], ids=str)
def test_shapes_that_differ_do_not_broadcast(name, shape):
    with pytest.raises(DataError, match=r"outputs of shape .* and targets of shape \(5, 1\); expected the same"):
        METRICS[name](torch.zeros(shape), torch.zeros(5, 1))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([1, 1]), [True, False]),
        (torch.tensor([[0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]), [True, True]),
    ],
    ids=["class numbers", "shares"],
)
def test_the_class_with_the_highest_score_answers(targets, expected):
    assert is_correct(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]]), targets).tolist() == expected


def test_every_position_of_dense_targets_has_an_answer():
    outputs = torch.zeros(1, 2, 2, 2)
    outputs[0, 1, 0] = 1.0
    assert is_correct(outputs, torch.tensor([[[1, 0], [0, 1]]])).tolist() == [[[True, False], [True, False]]]


def test_a_logit_above_nothing_says_yes():
    outputs, targets = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[1.0], [0.0], [0.0]])
    assert BINARY.right(outputs, targets).flatten().tolist() == [True, True, False]
