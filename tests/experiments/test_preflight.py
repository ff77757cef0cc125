"""What shows in training alone shows before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.data.user_data import make_data_set
from bnkit.errors import FactoryError
from bnkit.experiments.experiment import default_experiment, parse_experiment
from bnkit.experiments.networks import from_factories
from bnkit.experiments.preflight import check_plan
from bnkit.experiments.resolve_experiment import resolve_experiment
from tests.experiments import tiny_experiment


class _Trains(nn.Module):
    """A network whose training does what evaluation does not."""

    seen: list[tuple[int, bool]] = []  # noqa: RUF012 - of the class: every network is a new one

    def __init__(self, deed=None):
        super().__init__()
        self.inner, self.deed = tiny_experiment.with_batch_norm(), deed

    def forward(self, x):
        _Trains.seen.append((len(x), self.training))
        if self.training and self.deed is not None:
            return self.deed(self.inner, x)
        return self.inner(x)


def _fixed(model, x):
    return model(x.view(16, -1))


def _twice(model, x):
    return model(x), model(x)


def _detached(model, x):
    return model(x).detach()


def _leaves(model, x):
    raise SystemExit("enough")


def _compare(path, batch_norm, grid, data=None, **changes):
    networks = {"no_batch_norm": tiny_experiment.plain, "batch_norm": batch_norm}
    settings = {"seeds": 1, "epochs": 1, "validation": 0.2, **changes}
    return bnkit.compare(networks, data or tiny_experiment.data(), {"lr": [0.1], **grid}, out=path, **settings)


@pytest.mark.parametrize("workers", [None, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(
    ("batch_norm", "grid", "message"),
    [
        (tiny_experiment.with_batch_norm, {"batch_size": [16, 1]}, "network batch_norm raised TooFewValuesError when it was trained on a batch of 1 "),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), {"batch_size": [1]},
         r"raised ValueError .* batch of 1 \(grid: batch_size=1\).*Expected more than 1 value per channel"),
        (lambda: _Trains(_fixed), {"batch_size": [16]}, "batch of 8 .grid: batch_size=16"),
        (lambda: _Trains(_twice), {"batch_size": [8]}, "raised TypeError when it was trained on a batch of 8"),
        (lambda: _Trains(_detached), {"batch_size": [8]}, "raised RuntimeError .*does not require grad"),
        (lambda: _Trains(_leaves), {"batch_size": [8]}, "raised SystemExit .*enough"),
    ],
    ids=["one of ours", "one of torch's", "the last batch", "a tuple", "detached", "leaves"],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_any_run(tmp_path, batch_norm, grid, message, workers):
    with pytest.raises(FactoryError, match=message) as caught:
        _compare(tmp_path / "r", batch_norm, grid, workers=workers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_it_is_refused_in_another_process_too(tmp_path):
    with pytest.raises(FactoryError, match=r"raised SystemExit .*enough"):
        _compare(tmp_path / "r", lambda: _Trains(_leaves), {"batch_size": [8]}, workers=1)
    assert not (tmp_path / "r").exists()


def _prepared(networks, grid, **changes):
    experiment = parse_experiment({**default_experiment("t", ["t"], grid), "validation": 0.2, **changes}, "here")
    return resolve_experiment(experiment, from_factories(networks), make_data_set(tiny_experiment.data(), "data"))


def test_every_size_is_tried_once_for_a_network_and_nothing_is_left_behind():
    _Trains.seen = []
    planned, components = _prepared(
        {"a": _Trains}, {"lr": [0.1, 0.2], "batch_size": [16, 24, 12], "momentum": [0.0, 0.9]}, seeds=3
    )
    before = torch.get_rng_state()
    assert check_plan(planned, components) == ()
    assert torch.equal(torch.get_rng_state(), before)
    assert [size for size, is_training in _Trains.seen if is_training] == [8, 12, 16, 24]


def test_a_convolution_has_many_values_in_a_batch_of_one(tmp_path):
    networks = {"a": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))}
    data = torch.randn(20, 1, 5, 5), torch.arange(20) % 3
    comparison = bnkit.compare(
        networks, (data, data), {"lr": [0.1], "batch_size": [1]}, seeds=1, epochs=1, out=tmp_path
    )
    assert {row["status"] for row in comparison.rows} == {"finished"}


def test_a_last_batch_of_one_example_is_left_out(tmp_path):
    # 73 examples to train on: 9 batches of 8, and one is left.
    comparison = _compare(tmp_path, tiny_experiment.with_batch_norm, {"batch_size": [8]}, validation=17 / 90)
    assert {row["status"] for row in comparison.rows} == {"finished"}
    assert {record.last.steps for record in comparison.records.values()} == {9}


def test_training_is_not_tried_where_what_fails_is_a_result():
    planned, components = _prepared({"a": tiny_experiment.with_batch_norm}, {"lr": [0.1], "batch_size": [1]})
    assert check_plan(planned, components, training=False) == ()


def test_a_step_of_ones_own_is_tried_once_and_its_network_at_every_size(tmp_path):
    steps = []

    def step(model, optimizer, loss, inputs, targets):
        steps.append(len(inputs))
        outputs = model(inputs)
        return loss(outputs, targets), outputs

    with pytest.raises(FactoryError, match="trained on a batch of 1 "):
        _compare(tmp_path / "r", tiny_experiment.with_batch_norm, {"batch_size": [1]}, training_step=step)
    assert steps == [2, 2]
