"""A Dataset gives what the same examples in memory give."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

import bnkit
from bnkit.data import Streamed, batches, prepare
from bnkit.data.user_data import make_data_set
from bnkit.errors import DataError
from tests.child_processes import time_limit
from tests.experiments import tiny_experiment


class Rows(Dataset):
    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        return self.inputs[row], int(self.targets[row])


def _datasets():
    return tuple(Rows(*part) for part in tiny_experiment.data())


def test_one_pass_finds_the_shape_the_classes_the_mean_and_the_deviation():
    streamed, (inputs, targets) = Streamed.of(_datasets()[0], "x"), tiny_experiment.data()[0]
    assert (streamed.input_shape, streamed.classes, len(streamed)) == ((6,), int(targets.max()) + 1, 90)
    assert streamed.survey.mean == pytest.approx(inputs.double().mean().item(), rel=1e-12)
    assert streamed.survey.deviation == pytest.approx(inputs.double().std(correction=0).item(), rel=1e-9)


@pytest.mark.parametrize("trainset", ["normal", "not_normal", "symmetric"])
def test_the_parts_hold_the_same_examples(trainset):
    ours = prepare(make_data_set(_datasets(), "x"), trainset, 0.2)
    theirs = prepare(make_data_set(tiny_experiment.data(), "x"), trainset, 0.2)
    for mine, other in ((ours.train, theirs.train), (ours.validation, theirs.validation), (ours.test, theirs.test)):
        order = torch.randperm(len(other), generator=torch.Generator().manual_seed(1))
        for (a, b), (c, d) in zip(batches(mine, 16, order), batches(other, 16, order), strict=True):
            torch.testing.assert_close(a, c)
            assert torch.equal(b, d)
    assert len(list(batches(ours.train, 16, None, drop_last=True))) == 72 // 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_comparison_has_the_figures_of_the_same_examples_in_memory(tmp_path, num_workers):
    grid = {"lr": [0.05], "batch_size": [16], "trainset": ["not_normal"], "num_workers": [num_workers]}
    changes = {**tiny_experiment.EXPERIMENT, "grid": grid, "seeds": 1}
    with time_limit(120):  # the loader's worker is forked
        streamed = bnkit.compare(tiny_experiment.NETWORKS, _datasets(), out=tmp_path / "a", **changes)
    in_memory = bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), out=tmp_path / "b", **changes)
    assert [{**row, "run_id": ""} for row in tiny_experiment.figures(streamed)] == [
        {**row, "run_id": ""} for row in tiny_experiment.figures(in_memory)
    ]


class _Broken(Rows):
    def __getitem__(self, row):
        if row == 3:
            raise KeyError("row three")
        return super().__getitem__(row)


class _Changing(Rows):
    def __len__(self):
        return 300

    def __getitem__(self, row):
        return self.inputs[row % 90].to(torch.float32 if row < 256 else torch.uint8), row % 3


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (_Broken, "x raised KeyError: .*row three.*expected examples"),
        (lambda i, t: Rows(i[:0], t[:0]), "x is empty"),
        (_Changing, r"x returns inputs of torch.uint8 of shape \(6,\) .* after inputs of torch.float32"),
        (lambda i, t: Rows(i, t - 5), "x has the labels -5 to -3, negative class numbers"),
        (lambda i, t: Rows([str(row) for row in i], t), "x returns a str as an input; expected a tensor"),
        (lambda i, t: Dataset(), "x has no length; expected a map-style Dataset"),
    ],
    ids=["raises", "empty", "changing", "negative", "no tensors", "no length"],
)
def test_invalid_input_is_refused(dataset, message):
    with pytest.raises(DataError, match=message):
        Streamed.of(dataset(*tiny_experiment.data()[0]), "x")
