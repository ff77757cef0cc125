"""The layer from scratch, PyTorch's and bnkit's: the same numbers, at three speeds."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnkit.data import Examples, load
from bnkit.demonstrations.format_tensors import largest_difference
from bnkit.experiments.networks import network_sources
from bnkit.experiments.run_settings import Settings
from bnkit.memory import keep_freed_memory
from bnkit.message_parts import plural
from bnkit.nn import BatchNorm1d, BatchNorm2d
from bnkit.seeding import seeded
from bnkit.text_table import Column, Table

_ARMS = {"reference": "from scratch", "torch": "built in", "batch_norm": "bnkit"}
_BATCH, _STEPS, _ROUNDS = 256, 8, 7
# The tolerance for float64 values around 1, after a few thousand operations.
_ROUNDING = 1e-12


def scratch_and_concise() -> list[Table]:
    """Every number of a training step and of the prediction after it, and LeNet's examples per second."""
    return [_numbers(), _speeds()]


def _numbers() -> Table:
    rows: list[tuple[str, ...]] = []
    kinds = (
        ("linear, (32, 5)", (32, 5), BatchNorm1d, nn.BatchNorm1d),
        ("convolution, (8, 5, 6, 7)", (8, 5, 6, 7), BatchNorm2d, nn.BatchNorm2d),
    )
    with seeded(0, "scratch-and-concise"):
        for name, shape, ours, theirs in kinds:
            x, gradient = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
            built_in = _train_and_predict(theirs(5, dtype=torch.float64), x, gradient)
            scratch = _train_and_predict(ours(5, dtype=torch.float64, kernel="reference"), x, gradient)
            concise = _train_and_predict(ours(5, dtype=torch.float64, kernel="aten"), x, gradient)
            for what, value in built_in.items():
                differences = largest_difference(scratch[what], value), largest_difference(concise[what], value)
                equal = "yes" if max(differences) <= _ROUNDING else "no"
                rows.append((name, what, *(f"{difference:.1e}" for difference in differences), equal))
    equal_rows = sum(row[-1] == "yes" for row in rows)
    return Table(
        (Column("input", wraps=True), Column("number", wraps=True), "from scratch", "bnkit", "equal"),
        rows,
        "The largest difference to torch.nn, float64",
        f"{equal_rows} of {len(rows)} agree up to rounding.",
    )


def _train_and_predict(layer: nn.Module, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(gradient)
    assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor)
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    return {
        "output in training": output,
        "gradient of the input": x.grad,
        "gradient of γ": layer.weight.grad,
        "gradient of β": layer.bias.grad,
        "running mean": layer.running_mean,
        "running variance": layer.running_var,
        "output in prediction": layer.eval()(x),
    }


def _speeds() -> Table:
    """The speed of LeNet's training steps, a few steps of each interleaved, so that noise affects all three alike."""
    keep_freed_memory()
    data = load("digits")
    assert isinstance(data.train, Examples)
    images, targets = data.train.inputs[:_BATCH].float() / 255, data.train.targets[:_BATCH]
    models = {
        arm: source.build(data.input_shape, data.out_features, Settings(), seed=0)
        for arm, source in network_sources(["lenet"], list(_ARMS)).items()
    }
    rates: dict[str, list[float]] = {arm: [] for arm in models}
    for round_ in range(_ROUNDS + 1):
        for arm, model in models.items():
            seconds = _seconds_of_steps(model, images, targets)
            if round_ > 0:  # the first warms up
                rates[arm].append(_BATCH * _STEPS / seconds)
    rows: list[tuple[str, ...]] = []
    for arm, name in _ARMS.items():
        ratio = statistics.median(own / built_in for own, built_in in zip(rates[arm], rates["torch"], strict=True))
        rows.append((name, arm, f"{statistics.median(rates[arm]):,.0f}", f"{ratio:.2f}"))
    return Table(
        ("layer", "arm", "examples/s", "against built in"),
        rows,
        f"LeNet in training, batch {_BATCH}, {plural(torch.get_num_threads(), 'thread')}, interleaved",
        "The textbook, on a GPU: 35,560.7 from scratch and 60,219.9 built in, a ratio of 0.59.",
    )


def _seconds_of_steps(model: nn.Module, images: Tensor, targets: Tensor) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    began = time.perf_counter()
    for _ in range(_STEPS):
        loss = functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - began
