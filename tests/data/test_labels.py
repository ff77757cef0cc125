"""Labels of all kinds: taken in one form, or named with a remedy that is tried here."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import one_hot
from torch.utils.data import TensorDataset

from bnkit.data import DataSet, Examples
from bnkit.data.labels import canonical_targets, describe_labels, suggest_fix, unique_labels
from bnkit.data.user_data import make_data_set
from bnkit.errors import DataError

_LABELS = torch.arange(12) % 3
_MASKS = torch.arange(12 * 4 * 4).view(12, 4, 4) % 3


@pytest.mark.parametrize(
    ("targets", "dimensions", "expected"),
    [
        *((_LABELS.to(dtype), 2, _LABELS) for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)),
        (_LABELS > 1, 2, (_LABELS > 1).long()),
        (_LABELS[:, None], 4, _LABELS),
        (_MASKS[:, None], 4, _MASKS),
        (_MASKS, 4, _MASKS),
        (_MASKS[:, None], 5, _MASKS[:, None]),  # volumes of one slice
        (_LABELS.double(), 2, _LABELS[:, None].float()),
        (_MASKS[:, None].half(), 4, _MASKS[:, None].float()),
    ],
    ids=["uint8", "int16", "int32", "int64", "bool", "(N, 1)", "(N, 1, H, W)", "(N, H, W)", "volumes", "(N,)", "float"],
)
def test_targets_have_one_of_two_forms(targets, dimensions, expected):
    taken = canonical_targets(targets, dimensions)
    assert taken.dtype == expected.dtype
    assert torch.equal(taken, expected)


@pytest.mark.parametrize("labels", [[0, 2, 5], [3], [-1, 70_000, 2**40], list(range(300))], ids=str)
def test_labels_that_occur(labels):
    assert unique_labels(torch.tensor(labels).repeat(3)) == set(labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({4}, "the label 4"),
        ({0, 255}, "the labels 0 and 255"),
        ({0, 2, 5}, "the labels 0, 2 and 5"),
        (set(range(1, 11)), "the labels 1 to 10"),
        (set(range(0, 20, 2)), "the labels 0, 2, 4, 6, 8, … 18 (10 different ones)"),
    ],
    ids=str,
)
def test_labels_in_words(labels, expected):
    assert describe_labels(labels) == expected


@pytest.mark.parametrize(
    ("targets", "outputs", "fits", "named"),
    [
        (_LABELS + 1, (12, 3), lambda targets: targets - 1, "labels 1 to 3: targets - 1 makes"),
        (_LABELS.clamp(max=1) * 255, (12, 2), lambda targets: targets // 255, "labels 0 and 255: targets // 255 makes"),
        (
            _MASKS.clamp(max=1) * 255,
            (12, 1, 4, 4),
            lambda targets: (targets == 255).float()[:, None],
            r"labels 0 and 255: for one output give \(targets == 255\)\.float\(\)",
        ),
        (
            torch.tensor([0, 2, 5])[_LABELS],
            (12, 3),
            lambda targets: torch.unique(targets, return_inverse=True)[1],
            r"labels 0, 2 and 5: torch\.unique\(targets, return_inverse=True\)\[1\]",
        ),
        (
            one_hot(_LABELS),
            (12, 3),
            lambda targets: targets.argmax(1),
            r"one-hot rows of 3 labels: targets\.argmax\(1\)",
        ),
        (
            one_hot(_LABELS) | one_hot(_LABELS.roll(1)),
            (12, 3),
            lambda targets: targets.float(),
            r"several labels an example give targets\.float\(\)",
        ),
        (
            _LABELS.float()[:, None],
            (12, 3),
            lambda targets: targets[:, 0].long(),
            r"floating whole numbers, as the labels 0 to 2: targets\[:, 0\]\.long\(\)",
        ),
        (
            _LABELS % 2,
            (12, 1),
            lambda targets: targets.float()[:, None],
            r"labels 0 and 1: for one output give targets",
        ),
    ],
    ids=["1 to N", "0 and 255", "a mask and one output", "gaps", "one-hot", "multi-hot", "floating", "one output"],
)
def test_the_remedy_makes_the_targets_fit(targets, outputs, fits, named):
    inputs = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    data = DataSet("x", "", Examples(inputs, targets), Examples(inputs, targets))
    assert re.search(f"^; .*{named}", data.suggest_fix(outputs))
    mended = Examples(inputs, fits(targets))
    again = DataSet("x", "", mended, mended)
    assert again.suggest_fix(outputs) == ""
    if again.classes is None:
        assert (again.out_features, *again.target_shape[1:]) == outputs[1:]
    else:
        assert (again.classes, *again.target_shape) == outputs[1:]


@pytest.mark.parametrize(
    ("labels", "targets", "outputs", "expected"),
    [
        ({0, 1, 2}, _LABELS, (12, 3), ""),
        ({0, 1, 2}, _LABELS, (12, 5), ""),
        (None, torch.rand(12, 1), (12, 1), ""),
        (None, torch.rand(12, 1), (12,), "nn.Linear(..., 1), without squeeze"),
        ({0, 1, 2, 255}, _MASKS, (12, 3, 4, 4), "the class number 3 and the network 4 outputs"),
        ({0, 7, 9000}, _LABELS, (12, 1), "the network needs 9001 outputs; for values to predict give floating targets"),
    ],
    ids=["fits", "more outputs", "values", "squeezed", "255 ignored", "values as integers"],
)
def test_what_is_said_of_outputs(labels, targets, outputs, expected):
    said = suggest_fix(labels, targets, outputs)
    assert expected in said
    assert bool(said) == bool(expected)


def test_targets_that_are_all_the_same_teach_nothing():
    inputs, same = torch.rand(12, 2), torch.full((12,), 2)
    data = make_data_set(((inputs, same), (inputs, _LABELS)), "mine")
    with pytest.raises(
        DataError, match="the training part of mine has the label 2 alone, the same for all 12 examples"
    ):
        data.refuse_unlearnable()
    make_data_set(((inputs, _LABELS), (inputs, same)), "mine").refuse_unlearnable()  # a test of one class can be scored


def test_labels_that_are_values_or_names_are_not_counted_as_classes():
    part = torch.rand(12, 2), _LABELS * 10**12
    with pytest.raises(
        DataError, match="mine has labels up to 2000000000000, and a network has an output for each class"
    ):
        make_data_set((part, part), "mine").refuse_unlearnable()


def test_remarks_name_labels_that_are_asked_for_and_never_shown():
    inputs = torch.rand(12, 2)
    gaps = torch.tensor([0, 2, 5])[_LABELS]
    assert make_data_set(((inputs, _LABELS), (inputs, _LABELS)), "mine").remarks() == []
    first, second = make_data_set(((inputs, gaps), (inputs, gaps.clamp(max=4))), "mine").remarks()
    assert first.startswith("the test part of mine has the label 4, which the training part lacks")
    assert second.startswith(
        "mine has the labels 0, 2, 4 and 5: class numbers count from 0, so that a network needs 6 "
    )


@pytest.mark.parametrize("dataset", [tuple, lambda part: TensorDataset(*part)], ids=["tensors", "dataset"])
def test_remarks_name_a_split_that_was_not_scaled(dataset):
    inputs = torch.arange(6000.0).view(3000, 2) / 6000
    labels = torch.arange(3000) % 3
    (remark,) = make_data_set((dataset((inputs, labels)), dataset((inputs * 255, labels))), "mine").remarks()
    assert remark.startswith("the training inputs of mine have a deviation of 0.28")
    assert "the test inputs of 73" in remark


def test_remarks_name_a_test_part_on_which_nothing_can_be_explained():
    inputs, targets = torch.rand(12, 2), torch.rand(12, 1)
    (remark,) = make_data_set(((inputs, targets), (inputs, torch.full((12, 3), 0.1)[:, :1])), "mine").remarks()
    assert remark == "the targets of the test part of mine are all the same: R² is undefined there"


def test_remarks_name_channels_that_stand_last():
    images = torch.rand(12, 8, 8, 3)
    (remark,) = make_data_set(((images, _LABELS), (images, _LABELS)), "mine").remarks()
    assert "mine has inputs of shape (8, 8, 3): 8 channels" in remark
