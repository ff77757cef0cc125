from __future__ import annotations

import pytest
import torch

from bnkit.data import DataSet, Examples, batches, prepare
from bnkit.errors import DataError, SettingsError


def _data(count=11):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    targets = torch.arange(count) % 3
    return DataSet("small", "digest", Examples(inputs, targets), Examples(inputs[:4], targets[:4]))


def test_symmetric_is_from_minus_one_to_one():
    """Normalize((0.5,), (0.5,)) of bytes over 255."""
    data = _data()
    parts = prepare(data, "symmetric", 0.0)
    assert torch.allclose(parts.train.inputs, data.train.inputs.float() / 127.5 - 1)
    assert torch.allclose(parts.test.inputs, data.test.inputs.float() / 127.5 - 1)


def test_not_normal_is_bytes_over_255():
    parts = prepare(_data(), "not_normal", 0.0)
    torch.testing.assert_close(parts.train.inputs, _data().train.inputs / 255)
    assert parts.validation is None


def test_normal_has_mean_0_and_deviation_1_over_the_training_part():
    data = _data()
    parts = prepare(data, "normal", 0.0)
    raw = data.train.inputs.double() / 255
    torch.testing.assert_close(
        parts.train.inputs.double(), (raw - raw.mean()) / raw.std(correction=0), rtol=1e-5, atol=1e-5
    )
    expected = (data.test.inputs.double() / 255 - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(parts.test.inputs.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_input_stays_finite():
    constant = Examples(torch.ones(1, 2), torch.arange(1))
    parts = prepare(DataSet("constant", "", constant, constant), "normal", 0.0)
    assert torch.equal(parts.train.inputs, torch.zeros(1, 2))


def test_the_validation_part_is_split_off_and_the_same_each_time():
    first, second = (prepare(_data(), "not_normal", 0.3) for _ in range(2))
    assert len(first.validation) == 3
    assert len(first.train) == 8
    assert torch.equal(first.validation.inputs, second.validation.inputs)
    rows = torch.cat([first.train.inputs, first.validation.inputs]).flatten(1)
    assert {tuple(row.tolist()) for row in rows} == {
        tuple(row.tolist()) for row in (_data().train.inputs / 255).flatten(1)
    }


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_part_that_would_be_empty_is_refused(share):
    with pytest.raises(SettingsError, match=f"validation={share} sets aside .* of 11 training examples"):
        prepare(_data(), "normal", share)


def test_batches_go_through_all_rows_once():
    examples = Examples(torch.arange(11.0)[:, None], torch.arange(11))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    for given in (None, order):
        taken = list(batches(examples, 4, given))
        assert [len(targets) for _, targets in taken] == [4, 4, 3]
        expected = torch.arange(11) if given is None else order
        assert torch.equal(torch.cat([targets for _, targets in taken]), expected)
        assert torch.equal(torch.cat([inputs for inputs, _ in taken])[:, 0].long(), expected)
    assert [len(targets) for _, targets in batches(examples, 4, order, drop_last=True)] == [4, 4]
    assert [len(targets) for _, targets in batches(examples, 11, None, drop_last=True)] == [11]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), "3 inputs and 2 targets"),
        (torch.zeros(3), torch.zeros(3).long(), "shape"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.complex64), "class numbers"),
    ],
)
def test_examples_that_do_not_fit_together(inputs, targets, message):
    with pytest.raises(DataError, match=message):
        Examples(inputs, targets)


def test_data_sets_that_do_not_fit_together():
    inputs = torch.arange(6.0).view(3, 2)
    good = Examples(inputs, torch.zeros(3).long())
    with pytest.raises(DataError, match="test part of x is empty"):
        DataSet("x", "", good, Examples(torch.zeros(0, 2), torch.zeros(0).long()))
    with pytest.raises(DataError, match="expected the same"):
        DataSet("x", "", good, Examples(torch.zeros(3, 5), torch.zeros(3).long()))
    with pytest.raises(DataError, match="negative class numbers"):
        DataSet("x", "", good, Examples(inputs, torch.full((3,), -1)))
