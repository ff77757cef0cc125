"""BN1xx: each fires where it should, and is silent on the repaired model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit.nn
from bnkit.checks.check import check
from bnkit.model.freeze import freeze


def _sequence(*layers):
    return nn.Sequential(*layers)


def _images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _frozen(model):
    freeze(model)
    return model


CASES = [
    # what, model, code, sites
    ("a convolution", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "BN101", ["0"]),
    ("ours", lambda: _sequence(nn.Conv2d(3, 4, 3), bnkit.nn.BatchNorm2d(4, activation="relu")), "BN101", ["0"]),
    ("repaired", lambda: _sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), "BN101", []),
    ("an activation between", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "BN101", []),
    ("frozen", lambda: _frozen(_sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), "BN101", []),
    ("a reshape between", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.BatchNorm1d(4)), "BN101", ["0"]),
    ("channels mixed", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(64)), "BN101", []),
    ("two", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)), "BN103", ["2"]),
    ("an activation between two", lambda: _sequence(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)), "BN103", []),
    ("an activation inside the first", lambda: _sequence(bnkit.nn.BatchNorm2d(3, activation="relu"), nn.BatchNorm2d(3)), "BN103", []),
    ("bfloat16", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).bfloat16(), "BN109", ["1"]),
    ("float16", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).half(), "BN109", ["1"]),
    ("float32", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "BN109", []),
    ("cumulative", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None)).half(), "BN109", []),
    ("frozen bfloat16", lambda: _frozen(_sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).bfloat16()), "BN109", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code", "sites"), [pytest.param(*case[1:], id=f"{case[2]} {case[0]}") for case in CASES]
)
def test_what_is_found(make, code, sites):
    model = make()
    dtype = next(model.parameters()).dtype
    found = check(model, example_inputs=_images().to(dtype), select=code)
    assert [finding.site for finding in found] == sites
    assert all(finding.code == code for finding in found)
