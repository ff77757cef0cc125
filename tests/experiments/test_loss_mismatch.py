"""Outputs that do not fit the loss are told of, by the network's name, before anything is trained."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.data.user_data import make_data_set
from bnkit.experiments.loss_mismatch import loss_mismatch
from bnkit.experiments.training.losses import find_named_loss, losses_for
from tests.experiments import tiny_experiment

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.arange(64) % 3
SHARES = functional.one_hot(NUMBERS, 3).float() * 0.7 + 0.1
VALUES = INPUTS[:, :1] * 3


class _Ends(nn.Module):
    """A network that ends in a function, not in a module."""

    def __init__(self, function, outputs=3):
        super().__init__()
        self.inner, self.function = nn.Linear(6, outputs), function

    def forward(self, x):
        return self.function(self.inner(x))


def _misfit(loss, model, targets):
    named = losses_for(make_data_set(((INPUTS, targets),) * 2, "data"))[loss]
    return loss_mismatch("mine", named, model, INPUTS, make_data_set(((INPUTS, targets),) * 2, "data").train.targets)


@pytest.mark.parametrize(
    ("loss", "end", "targets", "message"),
    [
        ("cross_entropy", lambda x: x.softmax(1), NUMBERS, "probabilities .a softmax: .* cross_entropy expects scores"),
        ("cross_entropy", lambda x: x.log_softmax(1), NUMBERS, "a log_softmax.* nll_loss fits"),
        ("cross_entropy", torch.sigmoid, NUMBERS, r"lie from 0 to 1 \(a sigmoid\)"),
        ("cross_entropy", torch.relu, NUMBERS, r"never negative \(a ReLU\)"),
        ("cross_entropy", functional.softplus, NUMBERS, "never negative"),
        ("cross_entropy", lambda x: x.softmax(1), SHARES, "a softmax"),
        ("multi_margin_loss", lambda x: x.softmax(1), NUMBERS, "a softmax"),
        ("nll_loss", lambda x: x.softmax(1), NUMBERS, "expects logarithms .* are probabilities .*log_softmax"),
        ("nll_loss", lambda x: x, NUMBERS, "expects logarithms of probabilities, .* are not; .* cross_entropy"),
        ("kl_div", lambda x: x.softmax(1), SHARES, "expects logarithms"),
        ("binary_cross_entropy_with_logits", torch.sigmoid, SHARES, "a sigmoid"),
        ("binary_cross_entropy_with_logits", lambda x: x.softmax(1), SHARES, "a softmax"),
        ("binary_cross_entropy_with_logits", torch.relu, SHARES, "a ReLU"),
        ("binary_cross_entropy_with_logits", functional.logsigmoid, SHARES, "never positive"),
        ("multilabel_soft_margin_loss", torch.sigmoid, SHARES, "a sigmoid"),
        ("soft_margin_loss", torch.sigmoid, (SHARES > 0.5).float() * 2 - 1, "a sigmoid"),
        ("soft_margin_loss", lambda x: x, SHARES, "made for targets -1 or 1"),
        ("binary_cross_entropy_with_logits", lambda x: x, VALUES.repeat(1, 3), "made for targets from 0 to 1"),
        ("poisson_nll_loss", torch.relu, SHARES, "expects the logarithms of rates"),
        ("mse_loss", torch.relu, VALUES.repeat(1, 3), "never negative .* out of their reach"),
        ("l1_loss", torch.sigmoid, VALUES.repeat(1, 3), "lie from 0 to 1"),
        ("huber_loss", torch.tanh, VALUES.repeat(1, 3), "lie from −1 to 1"),
    ],
)
def test_outputs_that_do_not_fit_the_loss_are_reported(loss, end, targets, message):
    assert re.search(message, _misfit(loss, _Ends(end), targets) or "")


def _zero():
    layer = nn.Linear(6, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _between(outputs):
    """A fresh linear layer whose outputs lie between 0 and 1 on these examples."""
    layer = nn.Linear(6, outputs)
    nn.init.normal_(layer.weight, std=1e-3)
    nn.init.constant_(layer.bias, 0.5)
    return layer


@pytest.mark.parametrize(
    ("loss", "model", "targets"),
    [
        ("cross_entropy", nn.Linear(6, 3), NUMBERS),
        ("cross_entropy", _zero(), NUMBERS),
        ("cross_entropy", _between(3), NUMBERS),
        ("cross_entropy", nn.Sequential(nn.Linear(6, 3), nn.Tanh()), NUMBERS),
        ("cross_entropy", nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), NUMBERS),
        ("cross_entropy", nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)), NUMBERS),
        ("binary_cross_entropy_with_logits", _between(1), SHARES[:, :1]),
        ("binary_cross_entropy", _Ends(torch.sigmoid), SHARES),
        ("nll_loss", _Ends(lambda x: x.log_softmax(1)), NUMBERS),
        ("kl_div", _Ends(lambda x: x.log_softmax(1)), SHARES),
        ("poisson_nll_loss", _between(1), SHARES[:, :1]),
        ("mse_loss", _Ends(torch.sigmoid), SHARES),
        ("mse_loss", _Ends(torch.relu), SHARES),
        ("mse_loss", _between(1), VALUES),
        ("mse_loss", nn.Linear(6, 1), VALUES),
    ],
)
def test_outputs_that_fit_the_loss_are_not_reported(loss, model, targets):
    assert _misfit(loss, model, targets) is None


@pytest.mark.parametrize("seed", range(20))
def test_no_fresh_layer_is_taken_for_a_sigmoid_or_a_relu(seed):
    torch.manual_seed(seed)
    assert _misfit("binary_cross_entropy_with_logits", _between(1), SHARES[:, :1]) is None
    assert _misfit("mse_loss", nn.Sequential(nn.Linear(6, 2), nn.Sigmoid(), _Last()), VALUES) is None


class _Last(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        nn.init.constant_(self.bias, 3.0)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), "cross_entropy"),
        (functional.cross_entropy, "cross_entropy"),
        (nn.BCEWithLogitsLoss(), "binary_cross_entropy_with_logits"),
        (lambda outputs, targets: outputs, None),
    ],
)
def test_a_loss_that_is_torchs_is_known_by_what_it_is(given, name):
    named_loss = find_named_loss(given)
    assert (named_loss and named_loss.name) == name


def _soft():
    return nn.Sequential(tiny_experiment.with_batch_norm(), nn.Softmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [None, 1])
def test_each_network_is_named_once_before_it_is_trained(tmp_path, capsys, workers):
    networks = {"no_batch_norm": tiny_experiment.plain, "batch_norm": _soft}
    bnkit.compare(
        networks, tiny_experiment.data(), {"lr": [0.1, 0.2]}, seeds=2, epochs=1, out=tmp_path, workers=workers
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.startswith("warning: network batch_norm: its outputs are probabilities (a softmax")
