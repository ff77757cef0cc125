"""What may be fixed: by default what leaves the keys of the weights alone, and the rest where its rule is named by its code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.checks.fix_findings import apply_fixes


def _findings():
    """Of a bias that is of no use, whose fix changes keys, and of statistics in half precision, whose fix does not."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for name in ("running_mean", "running_var"):
        setattr(model[1], name, getattr(model[1], name).half())
    findings = [
        *bnkit.check(model, select="BN109"),
        *bnkit.check(model.float(), example_inputs=torch.randn(2, 3, 2, 2), select="BN101"),
    ]
    return model, findings


@pytest.mark.parametrize(
    ("select", "removes_bias"),
    [(None, False), ("BN1", False), ("ALL", False), ("useless-bias", False), ("BN101", True), (["BN109, bn101"], True)],
)
def test_a_fix_that_changes_keys_is_asked_for_by_its_code(select, removes_bias):
    model, findings = _findings()
    fixed, changes = apply_fixes(model, findings, select=select)
    assert [change.action for change in changes] == ["bias removed"] * removes_bias + ["statistics widened"]
    assert ("0.bias" in fixed.state_dict()) != removes_bias
    assert "0.bias" in model.state_dict()
