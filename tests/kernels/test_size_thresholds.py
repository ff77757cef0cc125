from __future__ import annotations

import json

import pytest
import torch

from bnkit.kernels import select, size_thresholds
from bnkit.kernels.size_thresholds import case, is_faster

INPUTS = {
    "planes": (2, 3, 24, 24),
    "few positions": (2, 3, 7, 7),
    "one position": (2, 3),
    "channels last, few channels": (2, 16, 7, 7),
    "channels last": (2, 17, 7, 7),
}


def _input(name, examples=2):
    x = torch.empty(examples, *INPUTS[name][1:])
    return x.contiguous(memory_format=torch.channels_last) if name.startswith("channels last") else x


@pytest.mark.parametrize("name", INPUTS)
def test_every_case_is_in_the_table(name):
    assert case(_input(name)) == name


def test_the_shipped_table_has_every_case_and_no_other():
    table = json.loads(size_thresholds.TABLE.read_text())
    assert table.keys() == INPUTS.keys()
    assert all(least is None or least >= 1 for least in table.values())


@pytest.mark.parametrize(("least", "expected"), [(None, [False, False]), (10_000, [False, True])])
@pytest.mark.parametrize("name", INPUTS)
def test_from_the_threshold_on_the_loops_are_chosen(monkeypatch, name, least, expected):
    monkeypatch.setattr(size_thresholds, "_LEAST", {name: least})
    size_of_one = torch.Size(INPUTS[name][1:]).numel()
    below, above = _input(name, 9_999 // size_of_one), _input(name, -(-10_000 // size_of_one))
    assert [is_faster(below), is_faster(above)] == expected
    assert [select("auto", x).kernel.NAME == "numba" for x in (below, above)] == expected
