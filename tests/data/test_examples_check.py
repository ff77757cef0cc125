"""What no network can learn from is refused alike, from tensors, Datasets and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from bnkit.data import load
from bnkit.data.user_data import make_data_set
from bnkit.errors import DataError

_INPUTS = torch.arange(40 * 3 * 4, dtype=torch.float64).view(40, 3, 4) / 480
_TARGETS = torch.arange(40) % 3


def _from_tensors(train, test, _):
    return make_data_set((train, test), "mine")


def _from_datasets(train, test, _):
    return make_data_set((TensorDataset(*train), TensorDataset(*test)), "mine")


def _from_file(train, test, folder):
    arrays = {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}
    np.savez(folder / "mine.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    return load(str(folder / "mine.npz"))


def _with(tensor, value, *places):
    changed = tensor.clone()
    for place in places:
        changed[place] = value
    return changed


_GOOD = (_INPUTS, _TARGETS)
_NAN, _INF = float("nan"), float("inf")


@pytest.mark.parametrize("read", [_from_tensors, _from_datasets, _from_file], ids=["tensors", "datasets", "npz"])
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            (_with(_INPUTS, _NAN, (33, 2, 1), (35, 0, 0), (35, 0, 1)), _TARGETS),
            _GOOD,
            r"the training part of .*mine.* inputs that are inf or NaN: 3 values in 2 examples, the first in example 33 \(nan at ",
        ),
        (
            _GOOD,
            (_with(_INPUTS, -_INF, (0, 0, 0)), _TARGETS),
            r"the test part of .*mine.* 1 value in 1 example, the first in example 0 \(-inf at .*0, 0\]\)",
        ),
        (
            (_with(_INPUTS, 1e39, (4, 0, 0)), _TARGETS),
            _GOOD,
            r"the first in example 4 \(1e\+39 at .*0, 0\], too large for float32\)",
        ),
        (
            (_INPUTS, _with(_INPUTS[:, 0], _NAN, (7, 2))),
            (_INPUTS, _INPUTS[:, 0]),
            r"targets that are inf or NaN: .* 7 ",
        ),
        (
            (torch.ones_like(_INPUTS), _TARGETS),
            _GOOD,
            "the 40 inputs of the training part of .*mine.* are all the same",
        ),
        (_GOOD, (_INPUTS[:1].repeat(40, 1, 1), _TARGETS), "the 40 inputs of the test part of .* are all the same"),
        # float32 has steps of 64 there.
        ((1e9 + _INPUTS, _TARGETS), _GOOD, "the 40 inputs of the training part .* are all the same; .* in float32"),
        (
            (_INPUTS, _TARGETS * 2 - 1),
            _GOOD,
            r"labels -1, 1 and 3, negative class numbers; .*leave out what is labelled -1",
        ),
        ((_INPUTS, _TARGETS % 2 * 2 - 1), _GOOD, r"labels -1 and 1, .*: \(targets \+ 1\) // 2 makes them 0 and 1"),
        ((_INPUTS, _with(_TARGETS, -100, 9)), _GOOD, r"labels -100, 0, 1 and 2, .*a new class number, 3"),
        ((_INPUTS, _TARGETS - 2), _GOOD, r"labels -2 to 0, .*: targets - targets.min\(\) makes them begin at 0"),
    ],
    ids=[
        "nan",
        "inf",
        "too large",
        "nan target",
        "all alike",
        "test alike",
        "alike in float32",
        "-1",
        "±1",
        "-100",
        "-2",
    ],
)
def test_invalid_input_is_refused(tmp_path, read, train, test, message):
    with pytest.raises(DataError, match=message):
        read(train, test, tmp_path)


@pytest.mark.parametrize("read", [_from_tensors, _from_datasets, _from_file], ids=["tensors", "datasets", "npz"])
def test_what_differs_late_is_taken(tmp_path, read):
    inputs = _with(torch.zeros_like(_INPUTS), 1.0, (39, 2, 3))
    assert len(read((inputs, _TARGETS), _GOOD, tmp_path).train) == 40


def test_one_example_need_not_differ_from_others():
    one = (torch.zeros(1, 3, 4), torch.zeros(1, dtype=torch.int64))
    assert len(make_data_set((_GOOD, one), "x").test) == 1


def test_a_large_part_is_looked_at_in_pieces(monkeypatch):
    monkeypatch.setattr("bnkit.data.examples_check._VALUES_AT_ONCE", 24)
    with pytest.raises(DataError, match=r"3 values in 2 examples, the first in example 33 \(nan at \[2, 1\]\)"):
        _from_tensors((_with(_INPUTS, _NAN, (33, 2, 1), (35, 0, 0), (35, 0, 1)), _TARGETS), _GOOD, None)
