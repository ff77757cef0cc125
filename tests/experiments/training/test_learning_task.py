"""Losses, metrics, training steps and augmentations, named and one's own."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.comparison.compare import run_experiment
from bnkit.data import prepare
from bnkit.data.user_data import make_data_set
from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.experiment import DEFAULT_TASK, parse_experiment
from bnkit.experiments.training.learning_task import resolve_task, training_step
from bnkit.experiments.training.training_loop import epoch_order
from bnkit.seeding import seeded
from tests.experiments import tiny_experiment

GRID = {"lr": 0.05, "batch_size": 16}


def _regression():
    (inputs, _), (test_inputs, _) = tiny_experiment.data()
    return (inputs, inputs[:, 0].sin()), (test_inputs, test_inputs[:, 0].sin())


def _network(outputs=1, dropout=0.0):
    def without():
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, outputs))

    def with_batch_norm():
        return nn.Sequential(nn.Linear(6, 8), bnkit.nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))

    return {"no_batch_norm": without, "batch_norm": with_batch_norm}


def _compare(path, networks, data, **changes):
    settings = {"seeds": 2, "epochs": 2, "validation": 0.2, "name": "t", **changes}
    return bnkit.compare(networks, data, {**GRID, **settings.pop("grid", {})}, out=path, **settings)


@pytest.mark.parametrize(
    ("data", "changes", "loss", "metric", "goal"),
    [
        (tiny_experiment.data, {}, "cross_entropy", "accuracy", "maximize"),
        (_regression, {}, "mse_loss", "r2_score", "maximize"),
        (_regression, {"loss": "huber_loss"}, "huber_loss", "r2_score", "maximize"),
        (_regression, {"metric": "mean_absolute_error"}, "mse_loss", "mean_absolute_error", "minimize"),
        (_regression, {"loss": "binary_cross_entropy_with_logits"}, "binary_cross_entropy_with_logits", "accuracy",
         "maximize"),
    ],
)  # fmt: skip
def test_auto_follows_from_the_targets(data, changes, loss, metric, goal):
    content = {"name": "t", "networks": ["mlp"], "grid": GRID, "seeds": 1, "epochs": 1, **changes}
    task = resolve_task(parse_experiment(content, "here"), make_data_set(data(), "data"))
    assert (task.identity.loss, task.identity.metric, task.identity.goal) == (loss, metric, goal)
    assert task.is_default == (task.identity == DEFAULT_TASK) == (data is tiny_experiment.data)


@pytest.mark.slow
def test_a_regression_equals_a_handwritten_loop(tmp_path):
    comparison = _compare(tmp_path, _network(), _regression(), seeds=1, grid={"trainset": "not_normal"})
    run = comparison.plan.runs[1]
    epochs = comparison.records[run.run_id].epochs

    parts = prepare(make_data_set(_regression(), "data"), "not_normal", 0.2)
    model = comparison._stored.of_last_call.networks["batch_norm"].build((6,), 1, run.settings, run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    assert parts.train.targets.shape == (72, 1)
    for number, epoch in enumerate(epochs, start=1):
        model.train()
        outputs, targets, losses = [], [], []
        with seeded(0, "epoch", number):
            for rows in epoch_order(72, 0, number).split(16):
                output, target = model(parts.train.inputs[rows]), parts.train.targets[rows]
                loss = functional.mse_loss(output, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item() * len(rows))
                outputs.append(output.detach())
                targets.append(target)
        model.eval()
        with torch.no_grad():
            validation, test = (model(part.inputs) for part in (parts.validation, parts.test))
        assert epoch.loss == pytest.approx(sum(losses) / 72, rel=1e-5)
        assert epoch.metric == pytest.approx(r2_score(torch.cat(targets), torch.cat(outputs)), rel=1e-4)
        assert epoch.validation_metric == pytest.approx(r2_score(parts.validation.targets, validation), rel=1e-4)
        assert epoch.test_metric == pytest.approx(r2_score(parts.test.targets, test), rel=1e-4)
        assert epoch.test_loss == pytest.approx(functional.mse_loss(test, parts.test.targets).item(), rel=1e-5)
        assert (epoch.test_metric_population is not None) == (number == len(epochs))
        assert (epoch.accuracy, epoch.test_accuracy, epoch.test_accuracy_population) == (None, None, None)
    assert "test r2_score at the end" in str(comparison.answer)
    row = comparison.rows[-1]
    assert list(row)[-4:] == ["status", "metric", "test_metric", "test_metric_population"]
    assert row["test_metric"] == epochs[-1].test_metric
    assert comparison.load(run)(parts.test.inputs).shape == (30, 1)


@pytest.mark.slow
def test_the_users_own_loss_metric_and_step_are_used(tmp_path):
    called = []

    def loss(outputs, targets):
        called.append("loss")
        return functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    def errors(outputs, targets):
        called.append(f"metric of {len(targets)}")
        return (outputs.argmax(1) != targets).sum()

    errors.higher_is_better = False

    def step(model, optimizer, loss, inputs, targets):
        called.append("step")
        return training_step(model, optimizer, loss, inputs, targets)

    def shifted(inputs, targets):
        called.append("augmentation")
        return inputs + 1, targets

    comparison = _compare(
        tmp_path,
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        loss=loss,
        metric=errors,
        training_step=step,
        augmentation=shifted,
    )
    for kind in ("loss", "step", "augmentation", "metric of 72", "metric of 18", "metric of 30"):
        assert kind in called
    for run in comparison.plan:
        last = comparison.records[run.run_id].last
        assert last.test_metric == pytest.approx((1 - last.test_accuracy) * 30)
    assert "test errors at the end, paired by seed, 95 % intervals; less is better" in str(comparison.answer)
    best = comparison.best("batch_norm")
    ends = {run: comparison.records[run.run_id].last for run in comparison.plan if run.network.key == "batch_norm"}
    assert ends[best].validation_metric == min(end.validation_metric for end in ends.values())


@pytest.mark.slow
def test_the_usual_step_written_out_gives_the_usual_figures(tmp_path):
    def step(model, optimizer, loss, inputs, targets):
        outputs = model(inputs)
        value = loss(outputs, targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value, outputs

    usual = _compare(tmp_path / "usual", tiny_experiment.NETWORKS, tiny_experiment.data())
    written_out = _compare(tmp_path / "own", tiny_experiment.NETWORKS, tiny_experiment.data(), training_step=step)
    assert [run.run_id for run in usual.plan] != [run.run_id for run in written_out.plan]
    without_ids = [
        [{key: value for key, value in row.items() if key != "run_id"} for row in tiny_experiment.figures(comparison)]
        for comparison in (usual, written_out)
    ]
    assert without_ids[0] == without_ids[1]


@pytest.mark.slow
def test_every_network_sees_the_same_augmented_batches(tmp_path):
    seen = {}

    def noisy(inputs, targets):
        return inputs + torch.randn_like(inputs), targets

    def step(model, optimizer, loss, inputs, targets):
        kind = "with" if any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()) else "without"
        seen.setdefault(kind, []).append(inputs.clone())
        return training_step(model, optimizer, loss, inputs, targets)

    # One of them draws for its dropout, the other does not.
    _compare(
        tmp_path, _network(3, dropout=0.5), tiny_experiment.data(), seeds=1, augmentation=noisy, training_step=step
    )
    assert len(seen["with"]) == len(seen["without"]) == 1 + 2 * 5  # tried once, then two epochs of five batches
    assert all(torch.equal(a, b) for a, b in zip(seen["with"], seen["without"], strict=True))
    assert not torch.equal(seen["with"][1], seen["with"][6])


@pytest.mark.slow
def test_dense_class_numbers(tmp_path):
    def data(count, seed):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(count, 2, 4, 4, generator=generator)
        return inputs, (inputs.sum(1) > 0).long()

    networks = {
        "no_batch_norm": lambda: nn.Conv2d(2, 2, 1),
        "batch_norm": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), bnkit.nn.BatchNorm2d(2)),
    }
    comparison = _compare(tmp_path, networks, (data(40, 0), data(20, 1)), epochs=20, grid={"lr": 1.0})
    run = comparison.plan.runs[0]
    inputs, targets = data(20, 1)
    mean, deviation = data(40, 0)[0].mean(), data(40, 0)[0].std(correction=0)
    with torch.no_grad():
        right = comparison.load(run)((inputs - mean) / deviation).argmax(1) == targets
    accuracy = comparison.records[run.run_id].last.test_accuracy
    assert accuracy == pytest.approx(right.float().mean().item())
    assert accuracy > 0.95


@pytest.mark.slow
def test_binary_labels_with_one_output_have_an_accuracy(tmp_path):
    (inputs, targets), (test_inputs, test_targets) = tiny_experiment.data()
    data = (inputs, (targets == 0).float()), (test_inputs, (test_targets == 0).float())
    comparison = _compare(tmp_path, _network(), data, epochs=10, loss="binary_cross_entropy_with_logits")
    last = comparison.records[comparison.plan.runs[1].run_id].last
    assert last.test_accuracy > 0.9
    assert last.test_metric is None
    assert "points" in str(comparison.answer)


@pytest.mark.slow
def test_a_metric_that_is_not_finite_is_left_out(tmp_path):
    comparison = _compare(
        tmp_path, tiny_experiment.NETWORKS, tiny_experiment.data(), metric=lambda outputs, targets: math.nan
    )
    assert all(row["test_metric"] is None for row in comparison.rows)
    assert comparison.rows[-1]["status"] == "finished"
    assert "no_batch_norm: its runs finished, but their test <lambda> is undefined" in str(comparison.answer)
    assert "no run of" not in str(comparison.answer)


def _raises(*_):
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loss": "focal"}, SettingsError, "loss: 'focal' is unknown here; expected one of cross_entropy, nll_loss, multi_margin_loss, or file.py"),
        ({"loss": "mse_loss"}, SettingsError, "as the targets are class numbers"),
        ({"metric": "f1"}, SettingsError, "metric: 'f1' is unknown here; expected one of accuracy, r2_score"),
        ({"training_step": "mine"}, SettingsError, "training_step: 'mine' is unknown here; expected one of default"),
        ({"augmentation": "blur"}, SettingsError, "augmentation: 'blur' .* expected one of none, crop_and_flip"),
        ({"augmentation": "crop_and_flip"}, FactoryError, "augmentation raised SettingsError .* expected images"),
        ({"loss": "nowhere.py:loss"}, FactoryError, "nowhere.py does not exist"),
        ({"loss": 3}, FactoryError, "loss: loss is a int; expected a function"),
        ({"loss": _raises}, FactoryError, "loss raised KeyError on 2 examples with network no_batch_norm: 'gone'"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, FactoryError, r"loss returned a tensor of shape \(2,\)"),
        ({"loss": lambda outputs, targets: torch.tensor(1.0)}, FactoryError, "that depends on the outputs"),
        ({"metric": lambda outputs, targets: outputs}, FactoryError, "metric returned a tensor .* expected one number"),
        ({"metric": lambda outputs, targets: "good"}, FactoryError, "metric returned a str; expected one number"),
        ({"training_step": lambda *_: None}, FactoryError, r"training_step returned a NoneType; expected \(loss, outputs\)"),
        ({"training_step": lambda model, optimizer, loss, x, y: loss(model(x), y)}, FactoryError, "training_step returned a tensor of shape"),
        ({"augmentation": lambda x, y: x}, FactoryError, "augmentation returned a tensor"),
        ({"augmentation": lambda x, y: (x[:, :2], y)}, FactoryError, r"the inputs of shape \(2, 6\)"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        _compare(tmp_path / "out", tiny_experiment.NETWORKS, tiny_experiment.data(), **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (_regression(), {"loss": "cross_entropy"}, "as the targets are floating"),
        (_regression(), {"metric": "accuracy"}, "as the targets are floating"),
        (
            _regression(),
            {"networks": _network(2)},
            r"returned shape \(2, 2\) for 2 examples; expected \(2, 1\), as the t",
        ),
        (((torch.ones(9, 6), torch.full((9,), math.inf)),) * 2, {}, "targets that are inf or NaN"),
    ],
)
def test_what_is_refused_of_a_regression(tmp_path, data, changes, message):
    networks = changes.pop("networks", _network())
    with pytest.raises(BnkitError, match=message):
        _compare(tmp_path / "out", networks, data, **changes)


def _smoothed(outputs, targets):
    return functional.cross_entropy(outputs, targets, label_smoothing=0.1)


@pytest.mark.slow
def test_a_network_loads_without_the_function_that_it_was_trained_with(tmp_path):
    trained = _compare(tmp_path, "mlp", "digits", seeds=1, epochs=1, loss=_smoothed)
    again = bnkit.Comparison(tmp_path)
    inputs = torch.randn(3, 1, 28, 28)
    assert torch.equal(again.load(1)(inputs), trained.load(1)(inputs))
    with pytest.raises(SettingsError, match="loss was a function given to bnkit.compare; call that again"):
        run_experiment(again.plan.experiment, tmp_path)


@pytest.mark.slow
def test_a_network_does_not_load_without_the_data_that_were_given(tmp_path):
    _compare(tmp_path, "mlp", tiny_experiment.data(), seeds=1, epochs=1)
    with pytest.raises(SettingsError, match="the data were given to bnkit.compare; call that again"):
        bnkit.Comparison(tmp_path).load(1)
