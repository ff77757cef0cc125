"""Examples that draw random numbers are the same for every network, in every process; what does not fit is named."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from bnkit.data.seeded_dataset import SeededDataset
from bnkit.errors import DataError
from tests.child_processes import time_limit


class Examples(Dataset):
    """What ``make`` makes of a row, 40 times."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return self.make(row)


def _drawing(row):
    return torch.cat([torch.rand(1), torch.tensor([np.random.rand(), random.random(), row]).float()]), row % 2


class Together(Examples):
    """Hands out several rows at once, as Subset does."""

    def __getitems__(self, rows):
        return [self.make(row) for row in rows]


def _inputs(loading, **options):
    return torch.cat([inputs for inputs, _ in loading.batches(list(range(40)), 16, **options)])


@pytest.mark.parametrize("dataset", [Examples(_drawing), Together(_drawing)], ids=["one by one", "together"])
def test_what_is_drawn_follows_from_the_key_alone(dataset):
    first = _inputs(SeededDataset(dataset, "x", "epoch 1"))
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert torch.equal(_inputs(SeededDataset(dataset, "x", "epoch 1")), first)
    assert first[:, :3].unique().numel() == 120
    assert not (_inputs(SeededDataset(dataset, "x", "epoch 2"))[:, :3] == first[:, :3]).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_loaders_processes_draw_the_same():
    with time_limit(60):
        assert torch.equal(
            _inputs(SeededDataset(Examples(_drawing), "x", 1), num_workers=2),
            _inputs(SeededDataset(Examples(_drawing), "x", 1)),
        )


def test_the_networks_draws_are_not_disturbed():
    torch.manual_seed(3)
    expected = torch.rand(3), np.random.get_state()[1].tolist(), random.getstate()
    torch.manual_seed(3)
    _inputs(SeededDataset(Examples(_drawing), "x"))
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == expected[1:]


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda row: (np.full(2, row), row), 3),
        (lambda row: [torch.full((2,), row), torch.tensor(row)], 3),
        (lambda row: (torch.full((2,), row), np.int64(row)), 3),
        (lambda row: (torch.full((2,), row), np.array(row)), 3),
        (lambda row: (torch.full((2,), row), torch.tensor([row])), 3),
        (lambda row: (torch.full((2,), row), row > 2), 1),
        (lambda row: (torch.full((2,), row), row / 2), [1.5]),
        (lambda row: (torch.full((2,), row), np.float32(row / 2)), [1.5]),
        (lambda row: (torch.full((2,), float(row), requires_grad=True), row), 3),
    ],
    ids=["numpy", "list", "np.int64", "0-d", "(1,)", "bool", "float", "np.float32", "requires grad"],
)
def test_valid_examples_are_accepted(make, target):
    inputs, targets = SeededDataset(Examples(make), "x").batch([3, 4])
    assert inputs[0].tolist() == [3, 3]
    assert not inputs.requires_grad
    assert targets[0].tolist() == target


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda row: {"image": torch.zeros(2), "label": row}, r"a dict with the keys image, label; expected \(input, target\)"),
        (lambda row: (torch.zeros(2), row, "path"), r"a tuple of 3; expected \(input, target\)"),
        (lambda row: torch.zeros(2), r"a Tensor; expected \(input, target\)"),
        (lambda row: (Image.new("L", (2, 2)), row), "a PIL Image as an input; expected a tensor: a transform"),
        (lambda row: ("text", row), "a str as an input; expected a tensor"),
        (lambda row: ((torch.zeros(2), torch.zeros(2)), row), "a tuple of 2 as an input"),
        (lambda row: (np.ma.masked_array([0.0, 1.0]), row), "a MaskedArray as an input"),
        (lambda row: (torch.tensor(1.0), row), "single numbers as inputs"),
        (lambda row: (torch.zeros(2), "cat"), "'cat' as a target; expected a class number, from 0 on"),
        (lambda row: (torch.zeros(2), None), "None as a target"),
        (lambda row: (torch.zeros(2), {"boxes": row}), "targets of several parts"),
        (lambda row: (torch.zeros(2), (row, row)), "targets of several parts"),
        (lambda row: (torch.zeros(2, dtype=torch.complex64), row), "x: got inputs of torch.complex64"),
    ],
    ids=[
        "dict", "three", "one", "PIL", "text", "two inputs", "masked", "number", "name", "none", "boxes", "two targets",
        "complex",
    ],
)  # fmt: skip
def test_invalid_input_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        SeededDataset(Examples(make), "x").batch([3, 4])
