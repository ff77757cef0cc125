"""A comparison that takes a fraction of a second: two small networks on two clouds of points."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from bnkit.nn import BatchNorm1d


def plain() -> nn.Module:
    return nn.Sequential(OrderedDict(fc1=nn.Linear(6, 8), act=nn.ReLU(), drop=nn.Dropout(0.2), out=nn.Linear(8, 3)))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(6, 8, bias=False),
            norm=BatchNorm1d(8),
            act=nn.ReLU(),
            drop=nn.Dropout(0.2),
            out=nn.Linear(8, 3),
        )
    )


NETWORKS = {"no_batch_norm": plain, "batch_norm": with_batch_norm}


def networks():
    """For the command line: ``tiny_experiment.py:networks``."""
    return NETWORKS


def data():
    """Three classes, 90 examples to train on and 30 to test on, as ``((inputs, targets), (inputs, targets))``."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=generator) * 1.5
    targets = torch.arange(120) % 3
    inputs = centres[targets] + torch.randn(120, 6, generator=generator)
    return (inputs[:90], targets[:90]), (inputs[90:], targets[90:])


EXPERIMENT = {"grid": {"lr": [0.05, 0.5], "batch_size": [16]}, "seeds": 2, "epochs": 3, "validation": 0.2}


def figures(comparison):
    """All recorded figures but the durations, and the file of test scores: what has to come out equal to the bit."""
    timed = ("epoch_duration", "run_duration", "examples_per_second")
    scores = {run_id: record.last and record.last.test_scores for run_id, record in comparison.records.items()}
    assert not any(record.lost_example_scores for record in comparison.records.values())
    return [
        {**{key: value for key, value in row.items() if key not in timed}, "test_scores": scores[row["run_id"]]}
        for row in comparison.rows
    ]
