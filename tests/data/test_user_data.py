"""Data of a user's own: what identifies them survives random numbers, and nothing else does."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import bnkit
from bnkit.data import Streamed, batches, prepare
from bnkit.data.user_data import load_data, make_data_set
from bnkit.errors import BnkitError, DataError, FactoryError
from bnkit.experiments.callbacks import Callback
from tests.experiments import tiny_experiment

_FILE = """
import random
import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset, random_split

X, Y = torch.arange(240.).view(40, 6), torch.arange(40) % 3
AT_IMPORT = random_split(TensorDataset(X, Y), [30, 10])

def tensors():
    order = torch.randperm(40)
    return (X[order[:30]], Y[order[:30]]), (X[order[30:]], Y[order[30:]])

def numpy_draws():
    noise = torch.from_numpy(np.random.randn(40, 6))
    return (X + noise, Y), (X + noise, Y)

def shuffled():
    rows = list(range(40))
    random.shuffle(rows)
    return (X[rows[:30]], Y[rows[:30]]), (X[rows[30:]], Y[rows[30:]])

def split():
    return random_split(TensorDataset(X, Y), [30, 10])

def split_at_import():
    return AT_IMPORT

class Noisy(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        return X[row] + torch.rand(()) + np.random.rand() + random.random(), int(Y[row])

def transformed():
    return Noisy(), TensorDataset(X, Y)

def raises():
    raise SystemExit("no data")
"""


@pytest.mark.parametrize("factory", ["tensors", "numpy_draws", "shuffled", "split", "split_at_import", "transformed"])
def test_a_factory_that_draws_gives_the_same_in_every_call(tmp_path, factory):
    (tmp_path / "mine.py").write_text(_FILE)
    torch.manual_seed(1)
    np.random.seed(1)
    first = load_data(f"{tmp_path}/mine.py:{factory}")
    torch.manual_seed(2)
    np.random.seed(2)
    again = load_data(f"{tmp_path}/mine.py:{factory}")
    assert first.digest == again.digest
    for one, other in ((first.train, again.train), (first.test, again.test)):
        order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
        for (a, b), (c, d) in zip(batches(one, 8, order), batches(other, 8, order), strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


def test_the_callers_draws_are_not_disturbed(tmp_path):
    (tmp_path / "mine.py").write_text(_FILE)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_data(f"{tmp_path}/mine.py:transformed")
    assert torch.equal(torch.rand(2), expected)


def test_a_factory_that_ends_the_program_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(_FILE)
    with pytest.raises(FactoryError, match="raised SystemExit: no data"):
        load_data(f"{tmp_path}/mine.py:raises")


class Rows(Dataset):
    """Rows of ``inputs``; of the row ``changed``, if there is one, something else; with ``noise``, never the same."""

    def __init__(self, changed=None, labels=3, noise=0.0):
        self.inputs, self.labels, self.noise = torch.arange(240.0).view(40, 6), labels, noise
        if changed is not None:
            self.inputs[changed, 2] += 1e-3

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        unseeded = self.noise * secrets.randbelow(2**20) / 2**20
        return self.inputs[row] + unseeded, row % self.labels


def _digest(dataset, source="file"):
    return make_data_set((dataset, Rows()), "mine", source).digest


def test_a_dataset_is_known_by_what_it_hands_out():
    assert _digest(Rows()) == _digest(Rows())
    for other in (Rows(changed=39), Rows(changed=0), Rows(labels=2)):
        assert _digest(other) != _digest(Rows())


def test_one_that_draws_what_no_seed_decides_is_known_by_its_source():
    assert _digest(Rows(noise=1.0)) == _digest(Rows(noise=1.0)) != _digest(Rows())
    assert _digest(Rows(noise=1.0), "other file") != _digest(Rows(noise=1.0))
    assert _digest(Rows(noise=1.0, labels=2)) != _digest(Rows(noise=1.0))  # targets are the same each time


def test_tensors_are_known_as_ever():
    """Runs that were recorded before are found again."""
    inputs, targets = torch.arange(6, dtype=torch.uint8).view(3, 2), torch.tensor([0.5, 1.0, 2.0])
    digest = make_data_set(((inputs, targets), (inputs, targets)), "mine").digest
    assert digest == "7236d41223aa31a76bde988236eba98cff4449ce71aee2398c770ff2b566e4b4"


def test_parts_may_be_of_two_kinds():
    x, y = torch.arange(240.0).view(40, 6), torch.arange(40) % 3
    data = make_data_set((Rows(), (x, y)), "mine")
    assert isinstance(data.train, Streamed)
    torch.testing.assert_close(prepare(data, "normal", 0.0).test.inputs, (x - x.mean()) / x.std(correction=0))


def test_a_loader_stands_for_its_dataset():
    loaders = [
        DataLoader(part, batch_size=7, shuffle=shuffle) for part, shuffle in ((Rows(), True), (Rows(labels=2), False))
    ]
    data = make_data_set(loaders, "mine")
    assert data.digest == make_data_set((Rows(), Rows(labels=2)), "mine").digest
    assert isinstance(data.train, Streamed) and len(data.train) == len(Rows())


class _FirstOnly(SequentialSampler):
    def __iter__(self):
        return iter([0])


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(_PART)

    def __len__(self):
        return 40


_PART = TensorDataset(torch.rand(4, 2), torch.arange(4))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (_PART, "mine is a TensorDataset; expected (train, test)"),
        ({"train": _PART, "test": _PART}, "mine is a dict; expected"),
        ((_PART, _PART, _PART), "mine is a tuple of 3; expected"),
        (None, "mine is a NoneType; expected"),
        (_PART.tensors, "the training part of mine is a Tensor; expected (inputs, targets)"),
        (
            DataLoader(_PART),
            "mine is a DataLoader; expected (train, test), each (inputs, targets) or a Dataset; a second one for testing",
        ),
        (
            (_PART, DataLoader(_PART, collate_fn=len)),
            "with the collate_fn len, and bnkit makes the batches itself, from a Dataset; expected a Dataset whose __getitem__ does",
        ),
        (
            (DataLoader(_PART, sampler=SubsetRandomSampler([0, 1])), _PART),
            "from a Dataset; expected torch.utils.data.Subset(loader.dataset, loader.sampler.indices)",
        ),
        ((DataLoader(_PART, sampler=WeightedRandomSampler([1.0] * 4, 4)), _PART), "with a WeightedRandomSampler"),
        ((DataLoader(_PART, sampler=RandomSampler(_PART, num_samples=2)), _PART), "with a RandomSampler"),
        ((DataLoader(_PART, sampler=SequentialSampler(range(2))), _PART), "with a SequentialSampler"),
        ((DataLoader(_PART, sampler=_FirstOnly(_PART)), _PART), "with a _FirstOnly"),
        ((DataLoader(_PART, batch_size=None), _PART), "with batches of its own"),
        ((DataLoader(_Stream()), _PART), "the training part of mine is an IterableDataset"),
        ((_Stream(), _PART), "the training part of mine is an IterableDataset"),
        ((_PART, (torch.rand(4, 2), [0, 1, 2, 3])), "the test part of mine holds a list; expected tensors"),
        (
            (_PART, (np.eye(4), torch.arange(4))),
            "holds a ndarray; expected tensors: (inputs, targets); torch.from_numpy",
        ),
        (
            (_PART, (torch.rand(4, 3), torch.arange(4))),
            "mine has training inputs of shape (2,) and test inputs of shape (3,)",
        ),
        (
            ((torch.eye(4, dtype=torch.uint8), torch.arange(4)), (torch.eye(4), torch.arange(4))),
            "mine has training inputs of torch.uint8 and test inputs of torch.float32; expected the same: torch.uint8 is",
        ),
        (
            (_PART, TensorDataset(torch.eye(4)[:, :2].byte(), torch.arange(4))),
            "mine has training inputs of torch.float32 and test inputs of torch.uint8",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_invalid_input_is_refused(pairs, message):
    with pytest.raises(DataError) as caught:
        make_data_set(pairs, "mine")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda targets: targets + 1,
            r"returned shape \(2, 3\) for 2 examples; expected \(2, 4\), .*the labels 1 to 3: targets - 1 makes",
        ),
        (one_hot, r"returned shape \(2, 3\) .*one-hot rows of 3 labels: targets.argmax\(1\)"),
        (lambda targets: targets.float()[:, None], r"returned shape \(2, 3\) .*targets\[:, 0\]\.long\(\)"),
        (torch.zeros_like, "the training part of data has the label 0 alone, the same for all 90 examples"),
    ],
    ids=["1 to N", "one-hot", "floating", "one class"],
)
def test_a_comparison_names_labels_that_do_not_fit(tmp_path, change, message):
    data = tuple((inputs, change(targets)) for inputs, targets in tiny_experiment.data())
    with pytest.raises(BnkitError, match=message):
        bnkit.compare(tiny_experiment.NETWORKS, data, out=tmp_path, **tiny_experiment.EXPERIMENT)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_comparison_passes_on_what_is_remarkable(tmp_path):
    notes = []

    class Listening(Callback):
        def note(self, message):
            notes.append(message)

    (inputs, targets), (test_inputs, test_targets) = tiny_experiment.data()
    lacking = inputs[targets < 2], targets[targets < 2]
    changes = {**tiny_experiment.EXPERIMENT, "seeds": 1, "epochs": 1, "grid": {"lr": [0.05], "batch_size": [15]}}
    bnkit.compare(
        tiny_experiment.NETWORKS, (lacking, (test_inputs, test_targets)), out=tmp_path, observer=Listening(), **changes
    )
    assert any("the test part of data has the label 2, which the training part lacks" in note for note in notes)
