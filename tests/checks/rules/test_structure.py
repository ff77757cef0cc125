"""BN1xx: each fires where it should, and is silent on the repaired model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit.nn
from bnkit.checks.check import check
from bnkit.model.edit.convert import convert
from bnkit.model.edit.freeze import freeze
from tests.model.third_party_layers import Frozen2d, WithActivation2d


def _sequence(*layers):
    return nn.Sequential(*layers)


def _images():
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _frozen(model):
    freeze(model)
    return model


def _twice():
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm)


class Loop(nn.Module):
    """Runs twice what is there once; the first result of the convolution is returned as well."""

    def __init__(self, **arguments):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, **arguments)

    def forward(self, x):
        first = self.conv(x)
        return self.norm(self.conv(self.norm(first).relu())).relu(), first


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x.relu() + x.tanh())


class Dropping(nn.Module):
    def __init__(self, whole=False):
        super().__init__()
        self.conv, self.norm, self.whole = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), whole

    def forward(self, x):
        if not self.whole:
            return self.norm(self.conv(functional.dropout(x, 0.25, self.training)))
        kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.8).div_(0.8)
        return self.norm(self.conv(x) * kept if self.training else self.conv(x))


class Ways(nn.Module):
    """Only training, only evaluation, only as tensors, and never."""

    def __init__(self):
        super().__init__()
        self.training_only, self.evaluation_only, self.never, self.tensors = (nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x):
        x = functional.batch_norm(x, self.tensors.running_mean, self.tensors.running_var)
        return self.training_only(x) if self.training else self.evaluation_only(x)


CASES = [
    # what, model, code, sites
    ("a convolution", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "BN101", ["0"]),
    ("ours", lambda: _sequence(nn.Conv2d(3, 4, 3), bnkit.nn.BatchNorm2d(4, activation="relu")), "BN101", ["0"]),
    ("repaired", lambda: _sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), "BN101", []),
    ("an activation between", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "BN101", []),
    ("frozen", lambda: _frozen(_sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), "BN101", []),
    ("a reshape between", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.BatchNorm1d(4)), "BN101", ["0"]),
    ("channels mixed", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(64)), "BN101", []),
    ("one of its calls feeds something else", Loop, "BN101", []),
    ("after relu", lambda: _sequence(nn.ReLU(), nn.BatchNorm2d(3)), "BN102", ["1"]),
    ("after relu and pooling", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.GELU(), nn.MaxPool2d(2), nn.BatchNorm2d(3)), "BN102", ["3"]),
    ("after one with an activation", lambda: _sequence(bnkit.nn.BatchNorm2d(3, activation="silu"), nn.BatchNorm2d(3)), "BN102", ["1"]),
    ("before relu", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()), "BN102", []),
    ("a sum of activations", Sum, "BN102", []),
    ("at the end", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "BN104", ["1"]),
    ("at the end, flat", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Flatten()), "BN104", ["1"]),
    ("before softmax", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Softmax(1)), "BN104", ["1"]),
    ("before log-softmax", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LogSoftmax(1)), "BN104", ["1"]),
    ("before sigmoid", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sigmoid()), "BN104", ["1"]),
    ("before relu", lambda: _sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()), "BN104", []),
    ("frozen at the end", lambda: _frozen(_sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))), "BN104", []),
    ("not at the end", lambda: _sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), "BN104", []),
    ("right before", lambda: _sequence(nn.Dropout(0.5), nn.BatchNorm2d(3)), "BN105", ["1"]),
    ("of channels", lambda: _sequence(nn.Dropout2d(0.2), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "BN105", ["3"]),
    ("of alpha", lambda: _sequence(nn.AlphaDropout(0.2), nn.BatchNorm2d(3)), "BN105", ["1"]),
    ("as a function", Dropping, "BN105", ["norm"]),
    ("of whole examples", lambda: Dropping(whole=True), "BN105", []),
    ("of nothing", lambda: _sequence(nn.Dropout(0.0), nn.BatchNorm2d(3)), "BN105", []),
    ("two layers before", lambda: _sequence(nn.Dropout(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "BN105", []),
    ("a norm between", lambda: _sequence(nn.Dropout(), nn.InstanceNorm2d(3, affine=True), nn.BatchNorm2d(3)), "BN105", []),
    ("behind it", lambda: _sequence(nn.BatchNorm2d(3), nn.Dropout()), "BN105", []),
    ("frozen behind it", lambda: _frozen(_sequence(nn.Dropout(), nn.BatchNorm2d(3))), "BN105", []),
    ("called twice", Loop, "BN106", ["norm"]),
    ("in two places", _twice, "BN106", ["0"]),
    ("two of them", lambda: _sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), "BN106", []),
    ("without statistics", lambda: Loop(track_running_stats=False), "BN106", []),
    ("frozen, twice", lambda: _frozen(Loop()), "BN106", []),
    ("never", Ways, "BN107", ["never"]),
    ("0", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.0)), "BN108", ["1"]),
    ("1e-8 in half", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-8)).half(), "BN108", ["1"]),
    ("1e-6 in bfloat16", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-6)).bfloat16(), "BN108", ["1"]),
    ("1e-12 in float32", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-12)), "BN108", []),
    ("1e-20 in float64", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-20)).double(), "BN108", []),
    ("1e-5 in bfloat16", lambda: _sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).bfloat16(), "BN108", []),
    ("relu", lambda: _sequence(bnkit.nn.BatchNorm2d(3, activation="relu")), "BN110", ["0"]),
    ("of another library", lambda: _sequence(WithActivation2d(3)), "BN110", ["0"]),
    ("none", lambda: _sequence(bnkit.nn.BatchNorm2d(3), nn.ReLU()), "BN110", []),
    ("no subclass", lambda: _sequence(Frozen2d(3, act=nn.ReLU)), "BN110", []),
    ("converted", lambda: convert(_sequence(bnkit.nn.BatchNorm2d(3, activation="relu")), to="sync").model, "BN110", ["0"]),
    ("0.99", lambda: _sequence(nn.BatchNorm2d(3, momentum=0.99)), "BN111", ["0"]),
    ("0.1", lambda: _sequence(nn.BatchNorm2d(3, momentum=0.1)), "BN111", []),
    ("0.5", lambda: _sequence(nn.BatchNorm2d(3, momentum=0.5)), "BN111", []),
    ("cumulative", lambda: _sequence(nn.BatchNorm2d(3, momentum=None)), "BN111", []),
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
def test_each_rule_fires_and_is_silent_on_the_repaired_model(make, code, sites):
    model = make()
    dtype = next((p.dtype for p in (*model.parameters(), *model.buffers())), torch.float32)
    findings = check(model, example_inputs=_images().to(dtype), select=code)
    assert [finding.site for finding in findings] == sites
    assert all(finding.code == code for finding in findings)
