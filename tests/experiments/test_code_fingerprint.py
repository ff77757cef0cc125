"""The fingerprint of a user's code differs from that of other code."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from bnkit.experiments.code_fingerprint import fingerprint_of


def _scaled(factor):
    def loss(outputs, targets):
        return factor * (outputs - targets).square().mean()

    return loss


def _other(outputs, targets):
    return (outputs - targets).abs().mean()


class _Called:
    def __init__(self, weight):
        self.weight, self.cache = weight, object()

    def __call__(self, outputs, targets):
        return self.weight * _other(outputs, targets)


@pytest.mark.parametrize(
    ("one", "same", "another"),
    [
        (_scaled(1.0), _scaled(1.0), _scaled(2.0)),
        (_other, _other, _scaled(1.0)),
        (functools.partial(_other, weight=1), functools.partial(_other, weight=1), functools.partial(_other, weight=2)),
        (_Called(1.0), _Called(1.0), _Called(2.0)),
        (
            nn.CrossEntropyLoss(label_smoothing=0.1),
            nn.CrossEntropyLoss(label_smoothing=0.1),
            nn.CrossEntropyLoss(label_smoothing=0.2),
        ),
        (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        ),
        (nn.Linear, nn.Linear, nn.Conv2d),
    ],
    ids=["closure", "function", "partial", "object", "module", "module with a tensor", "class"],
)
def test_the_same_code_has_one_identity_and_other_code_another(one, same, another):
    assert fingerprint_of(one) == fingerprint_of(same) != fingerprint_of(another)


def test_a_name_stands_before_the_digest():
    assert fingerprint_of(_other).startswith(f"{__name__}._other#")
