"""The loop against one that is written out by hand."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bnkit.data import prepare
from bnkit.data.user_data import make_data_set
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.experiment import NetworkIdentity, parse_experiment
from bnkit.experiments.networks import from_factories
from bnkit.experiments.resolve_experiment import resolve_experiment
from bnkit.experiments.training import training_loop
from bnkit.experiments.training.cuda_graph import GraphedStep
from bnkit.experiments.training.distributed import SINGLE_PROCESS, Processes
from bnkit.experiments.training.evaluation import MetricsSum
from bnkit.experiments.training.learning_task import Task
from bnkit.experiments.training.training_loop import Training, epoch_order, train
from bnkit.seeding import seeded
from tests.experiments import tiny_experiment


def _run(grid=None, **changes):
    content = {"name": "t", "networks": ["x"], **tiny_experiment.EXPERIMENT, "validation": 0.2, **changes}
    content["grid"] = {"lr": 0.1, "batch_size": 16, "trainset": "not_normal", **(grid or {})}
    data = make_data_set(tiny_experiment.data(), "small")
    planned, components = resolve_experiment(
        parse_experiment(content, "here"), from_factories(tiny_experiment.NETWORKS), data
    )
    return planned.runs[1], components, prepare(data, "not_normal", 0.2)


def _train(run, components, parts, after=None, training=None):
    data = components.data
    model = components.networks[run.network.key].build(data.input_shape, data.classes, run.settings, run.seed)
    training = training or Training.of(run, model, len(parts.train))
    return training, list(train(run, training, parts, components.task, after, Callback()))


def test_training_equals_a_handwritten_loop():
    run, components, parts = _run()
    _, epochs = _train(run, components, parts)

    model = components.networks["batch_norm"].build((6,), 3, run.settings, run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number, epoch in enumerate(epochs, start=1):
        model.train()
        losses, hits, norms, sizes = [], 0, [], []
        with seeded(run.seed, "epoch", number):
            for rows in epoch_order(72, run.seed, number).split(16):
                logits = model(parts.train.inputs[rows])
                loss = functional.cross_entropy(logits, parts.train.targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                sizes.append(len(rows))
                hits += (logits.argmax(1) == parts.train.targets[rows]).sum().item()
                norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
        model.eval()
        with torch.no_grad():
            validation, test = (model(part.inputs) for part in (parts.validation, parts.test))
        assert epoch.epoch == number
        # The last batch has 8 examples and counts as 8, not as 16.
        assert epoch.loss == pytest.approx(sum(a * b for a, b in zip(losses, sizes, strict=True)) / 72, rel=1e-6)
        assert epoch.accuracy == pytest.approx(hits / 72)
        assert epoch.gradient_norm == pytest.approx(sum(norms) / len(norms), rel=1e-5)
        assert epoch.validation_loss == pytest.approx(
            functional.cross_entropy(validation, parts.validation.targets).item(), rel=1e-5
        )
        assert epoch.validation_accuracy == pytest.approx(
            (validation.argmax(1) == parts.validation.targets).float().mean().item()
        )
        assert epoch.test_loss == pytest.approx(functional.cross_entropy(test, parts.test.targets).item(), rel=1e-5)
        assert epoch.test_accuracy == pytest.approx((test.argmax(1) == parts.test.targets).float().mean().item())
        assert epoch.examples_per_second == pytest.approx(72 / epoch.epoch_duration)
        assert epoch.run_duration == pytest.approx(sum(entry.epoch_duration for entry in epochs[:number]))


def test_accuracy_under_population_statistics_is_that_of_a_recomputed_network():
    run, components, parts = _run()
    training, epochs = _train(run, components, parts)
    model = training.model.eval()
    hidden = model.fc1(parts.train.inputs).double()
    model.norm.running_mean.copy_(hidden.mean(0))
    model.norm.running_var.copy_(hidden.var(0))
    with torch.no_grad():
        accuracy = (model(parts.test.inputs).argmax(1) == parts.test.targets).float().mean().item()
    assert epochs[-1].test_accuracy_population == pytest.approx(accuracy)


@pytest.mark.parametrize("asked", [{}, {"population_every_epoch": True}], ids=str)
def test_population_statistics_are_measured_at_the_end_and_where_asked_after_every_epoch(asked):
    run, components, parts = _run(epochs=3, **asked)
    _, epochs = _train(run, components, parts)
    measured = [epoch.test_accuracy_population is not None for epoch in epochs]
    assert measured == ([True] * 3 if asked else [False, False, True])
    assert (run.run_id == _run(epochs=3)[0].run_id) == (not asked)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one-cycle"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_schedules_run_and_end_where_they_should(schedule, optimizer):
    run, components, parts = _run({"schedule": schedule, "optimizer": optimizer, "lr": 0.02}, epochs=4)
    training, epochs = _train(run, components, parts)
    expected = {"constant": 0.02, "step": 0.0002, "cosine": 0.0, "one-cycle": 0.02 / 25 / 1e4}[schedule]
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(
        expected, abs=1e-4 if schedule == "one-cycle" else 1e-9
    )
    assert all(math.isfinite(epoch.loss) for epoch in epochs)


def test_a_loss_that_is_not_finite_ends_the_run():
    run, components, parts = _run({"lr": 1e30})
    _, epochs = _train(run, components, parts)
    assert len(epochs) <= 2
    last = epochs[-1]
    assert (last.loss, last.accuracy, last.test_accuracy, last.test_accuracy_population) == (None,) * 4
    assert last.epoch_duration > 0


def test_a_network_without_batch_norm_has_no_population_accuracy():
    run, components, parts = _run()
    training = Training.of(run, tiny_experiment.plain(), len(parts.train))
    _, epochs = _train(run, components, parts, training=training)
    assert epochs[-1].test_accuracy_population is None


def test_every_step_is_reported_to_the_callback():
    run, components, parts = _run(drop_last=True)
    training = Training.of(run, nn.Linear(6, 3), len(parts.train))
    told = []

    class Told(Callback):
        def batch_done(self, run, epoch, examples):
            told.append((epoch, examples))

        def measuring(self, run, what):
            told.append(what)

    list(train(run, training, parts, components.task, None, Told()))
    measured = ["validation", "test"]  # without a batch norm, no population statistics
    assert told == [step for epoch in (1, 2, 3) for step in [*[(epoch, 16)] * 4, *measured]]


BUILT_IN = NetworkIdentity(key="batch_norm", identity="two-cnn/batch_norm")


@pytest.mark.parametrize(
    ("device", "network", "changes", "processes", "recorded"),
    [
        ("cuda", BUILT_IN, {}, SINGLE_PROCESS, True),
        ("cpu", BUILT_IN, {}, SINGLE_PROCESS, False),
        ("cuda", None, {}, SINGLE_PROCESS, False),  # a network that may decide things in Python
        ("cuda", BUILT_IN, {"observe": 10}, SINGLE_PROCESS, False),
        ("cuda", BUILT_IN, {"landscape": 10}, SINGLE_PROCESS, False),
        ("cuda", BUILT_IN, {}, Processes(0, 2), False),
    ],
)
def test_steps_are_recorded_where_that_is_safe(monkeypatch, device, network, changes, processes, recorded):
    monkeypatch.setattr(training_loop, "CudaGraphRecorder", lambda device: f"recorder of {device}")
    run = _run()[0]
    run = replace(run, network=network or run.network, **changes)
    step = training_loop._choose_step(run, Task(), torch.device(device), processes)
    assert isinstance(step, GraphedStep) is recorded
    assert recorded or step is Task().training_step


def test_a_gpu_is_waited_for_by_time_and_a_cpu_by_steps():
    def checks(device, seconds_ago, processes):
        then = time.perf_counter() - seconds_ago
        found = (training_loop._should_check_loss(step, then, torch.device(device), processes) for step in range(1, 97))
        return [step for step, checked in enumerate(found, start=1) if checked]

    assert checks("cpu", 100, SINGLE_PROCESS) == checks("cpu", 0, SINGLE_PROCESS) == [32, 64, 96]
    assert checks("cuda", -100, SINGLE_PROCESS) == []
    assert checks("cuda", 100, SINGLE_PROCESS) == list(range(1, 97))
    # All processes of a run have to wait for each other at the same step.
    assert checks("cuda", 100, Processes(1, 2)) == [32, 64, 96]


class _Waits(TorchDispatchMode):
    """Counts the operations that a device would have to be waited for: they hand a value to Python, or need one for a shape."""

    WAIT = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"})

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, _, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in self.WAIT
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(monkeypatch):
    """An epoch of many steps asks for as many values as one of few."""
    monkeypatch.setattr(training_loop, "_should_check_loss", lambda *_: False)  # which a clock decides on a GPU
    asked = {}
    for batch_size in (36, 12, 4):
        run, components, parts = _run({"batch_size": batch_size})
        with _Waits() as asking:
            _train(run, components, parts)
        asked[batch_size] = asking.count
    assert len(set(asked.values())) == 1, asked
    assert asked[4] > 0  # the tallies are read behind an epoch


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_last_epoch_keeps_what_each_test_example_scores(epochs):
    run, components, parts = _run(epochs=epochs)
    model = components.networks["batch_norm"].build((6,), 3, run.settings, run.seed)
    training = Training.of(run, model, len(parts.train))
    for epoch in train(run, training, parts, components.task, None, Callback()):
        assert (training.example_scores is not None) == (epoch.epoch == epochs)
    scores = training.example_scores
    with torch.no_grad():
        right = training.model.eval()(parts.test.inputs).argmax(1) == parts.test.targets
    assert scores.moving_average.tolist() == right.tolist()
    assert scores.moving_average.mean() == pytest.approx(epoch.test_accuracy)
    assert scores.population.mean() == pytest.approx(epoch.test_accuracy_population)


def test_an_example_with_several_answers_scores_the_share_that_is_right():
    outputs = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]]).permute(0, 2, 1)[:, :, None]
    targets = torch.tensor([[[0, 0]], [[0, 1]]])
    metrics = MetricsSum(
        Task(right=lambda *_: torch.tensor([[[True, True]], [[True, False]]])), torch.device("cpu"), keep_scores=True
    )
    metrics.add(torch.tensor(1.0), outputs, targets)
    assert metrics.compute().scores.tolist() == [1.0, 0.5]


def test_the_order_is_a_permutation_that_follows_from_seed_and_epoch():
    orders = [epoch_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(50, 1, 2).tolist() == orders[-1]
