"""Every loss that fits the targets, with the accuracy that goes with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.data.user_data import make_data_set
from bnkit.experiments.training.losses import losses_for
from tests.experiments import tiny_experiment

OUTPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
NUMBERS = torch.arange(40) % 3
YES = torch.arange(40) % 2
MANY = (OUTPUTS.roll(1, 0) > 0).long()
SHARES = functional.one_hot(NUMBERS, 3).float() * 0.7 + 0.1
ONE = OUTPUTS[:, :1]


def _loss(name, targets):
    data = make_data_set(((torch.arange(80.0).view(40, 2), targets),) * 2, "data")
    return losses_for(data)[name], data.train.targets


def _logits(outputs, targets):
    return (outputs.clamp(min=0) - outputs * targets + (1 + (-outputs.abs()).exp()).log()).mean()


# The loss as its formula says, in float64, and the accuracy by hand.
_CASES = {
    "cross_entropy": (OUTPUTS, NUMBERS, lambda o, t: (o.logsumexp(1) - o[range(40), t]).mean(), OUTPUTS.argmax(1) == NUMBERS),
    "nll_loss": (OUTPUTS.log_softmax(1), NUMBERS, lambda o, t: -o[range(40), t].mean(), OUTPUTS.argmax(1) == NUMBERS),
    "multi_margin_loss": (
        OUTPUTS, NUMBERS,
        lambda o, t: sum((1 - o[n, t[n]] + o[n, c]).clamp(min=0) for n in range(40) for c in range(3) if c != t[n]) / 120,
        OUTPUTS.argmax(1) == NUMBERS,
    ),
    "cross_entropy of shares": (
        OUTPUTS, SHARES, lambda o, t: -(t * o.log_softmax(1)).sum(1).mean(), OUTPUTS.argmax(1) == SHARES.argmax(1),
    ),
    "kl_div": (
        OUTPUTS.log_softmax(1), SHARES, lambda o, t: (t * (t.log() - o)).sum(1).mean(), OUTPUTS.argmax(1) == SHARES.argmax(1),
    ),
    "binary_cross_entropy_with_logits": (ONE, YES.float(), _logits, (ONE > 0) == YES[:, None].bool()),
    "binary_cross_entropy_with_logits of numbers": (ONE, YES, lambda o, t: _logits(o, t[:, None]), (ONE > 0) == YES[:, None].bool()),
    "binary_cross_entropy_with_logits of flat outputs": (ONE[:, 0], YES, _logits, (ONE[:, 0] > 0) == YES.bool()),
    "binary_cross_entropy_with_logits of several": (OUTPUTS, MANY, _logits, (OUTPUTS > 0) == MANY.bool()),
    "binary_cross_entropy": (
        ONE.sigmoid(), YES, lambda o, t: -(t[:, None] * o.log() + (1 - t[:, None]) * (1 - o).log()).mean(), (ONE > 0) == YES[:, None].bool(),
    ),
    "multilabel_soft_margin_loss": (OUTPUTS, MANY.float(), _logits, (OUTPUTS > 0) == MANY.bool()),
    "soft_margin_loss": (
        ONE, YES.float() * 2 - 1, lambda o, t: (1 + (-t * o).exp()).log().mean(), (ONE > 0) == YES[:, None].bool(),
    ),
    "soft_margin_loss of numbers": (
        ONE, YES, lambda o, t: (1 + (-(2 * t[:, None] - 1) * o).exp()).log().mean(), (ONE > 0) == YES[:, None].bool(),
    ),
    "poisson_nll_loss": (ONE, NUMBERS.float(), lambda o, t: (o.exp() - t * o).mean(), None),
    "mse_loss": (ONE, NUMBERS.float(), lambda o, t: (o - t).square().mean(), None),
    "l1_loss": (ONE, NUMBERS.float(), lambda o, t: (o - t).abs().mean(), None),
}  # fmt: skip


@pytest.mark.parametrize(("outputs", "targets", "formula", "right"), _CASES.values(), ids=_CASES)
def test_a_loss_is_its_formula_and_its_accuracy_is_right(request, outputs, targets, formula, right):
    loss, targets = _loss(request.node.callspec.id.split(" ")[0], targets)
    expected = formula(outputs.double(), targets.double() if targets.is_floating_point() else targets)
    assert loss.function(outputs, targets).item() == pytest.approx(float(expected), rel=1e-5)
    if right is None:
        assert loss.right is None
    else:
        assert torch.equal(loss.right(outputs, targets), right)


@pytest.mark.parametrize(
    ("targets", "fitting", "others"),
    [
        (NUMBERS, ["cross_entropy", "nll_loss", "multi_margin_loss"], ["mse_loss", "binary_cross_entropy"]),
        (YES, ["cross_entropy", "binary_cross_entropy", "soft_margin_loss"], ["mse_loss", "kl_div"]),
        (NUMBERS.reshape(40, 1).expand(40, 4), ["cross_entropy", "nll_loss"], ["multi_margin_loss"]),
        (SHARES, ["mse_loss", "cross_entropy", "kl_div", "binary_cross_entropy"], ["nll_loss"]),
        (OUTPUTS, ["mse_loss", "huber_loss", "poisson_nll_loss"], ["cross_entropy", "nll_loss"]),
    ],
)
def test_which_losses_fit_which_targets(targets, fitting, others):
    losses = losses_for(make_data_set(((torch.arange(80.0).view(40, 2), targets),) * 2, "data"))
    assert set(fitting) <= losses.keys()
    assert not set(others) & losses.keys()
    assert next(iter(losses)) == ("mse_loss" if targets.is_floating_point() else "cross_entropy")


def _data(of):
    return tuple((inputs, of(inputs)) for inputs, _ in tiny_experiment.data())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "of", "end", "least"),
    [
        ("binary_cross_entropy_with_logits", lambda x: (x[:, 0] > 0).long(), nn.Identity, 0.8),
        ("binary_cross_entropy", lambda x: (x[:, 0] > 0).long(), nn.Sigmoid, 0.8),
        ("soft_margin_loss", lambda x: (x[:, 0] > 0).float() * 2 - 1, nn.Identity, 0.8),
    ],
)
def test_they_learn_and_what_is_recorded_is_what_the_network_answers(tmp_path, loss, of, end, least):
    def make():
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1), end())

    grid = {"lr": [0.3], "batch_size": [16], "trainset": ["not_normal"]}
    comparison = bnkit.compare(make, _data(of), grid, seeds=1, epochs=15, loss=loss, out=tmp_path)
    _, (inputs, targets) = _data(of)
    outputs = comparison.load(2)(inputs)[:, 0]
    right = (outputs > (0.5 if end is nn.Sigmoid else 0.0)) == (targets > 0.5)
    last = comparison.records[comparison.plan.runs[1].run_id].last
    assert last.test_accuracy == pytest.approx(right.float().mean().item())
    assert last.test_accuracy >= least
    assert "points" in str(comparison.answer)


@pytest.mark.slow
def test_poisson_counts_are_compared_with_the_rates(tmp_path):
    def make():
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))

    data = _data(lambda x: (x[:, 0].exp()).round())
    grid = {"lr": [0.05], "batch_size": [16], "trainset": ["not_normal"]}
    comparison = bnkit.compare(make, data, grid, seeds=1, epochs=10, loss="poisson_nll_loss", out=tmp_path)
    _, (inputs, targets) = data
    rates = comparison.load(2)(inputs)[:, 0].exp()
    expected = 1 - (targets - rates).square().sum() / (targets - targets.mean()).square().sum()
    last = comparison.records[comparison.plan.runs[1].run_id].last
    assert last.test_metric == pytest.approx(expected.item(), abs=1e-4)
    assert not math.isnan(last.test_metric)


@pytest.mark.slow
def test_a_built_in_network_has_one_output_for_yes_or_no(tmp_path):
    data = _data(lambda x: (x[:, 0] > 0).long())
    loss = "binary_cross_entropy_with_logits"
    comparison = bnkit.compare(
        "mlp", data, {"lr": [0.1], "batch_size": [16]}, seeds=1, epochs=2, loss=loss, out=tmp_path
    )
    assert comparison.load(1)(data[1][0]).shape == (30, 1)
    assert {row["status"] for row in comparison.rows} == {"finished"}
