"""One input through one layer in each mode, next to ``torch.nn``: the course's description of BatchNorm2d."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnkit.data import Examples, load
from bnkit.demonstrations.format_tensors import first_values, largest_difference
from bnkit.model import normalising_by, population_statistics
from bnkit.nn import BatchNorm1d, BatchNorm2d
from bnkit.text_table import Column, Table

_BATCH = 64
# The tolerance for float64 values around 1, in sums of a few thousand.
_ROUNDING = 1e-12


def train_and_predict() -> list[Table]:
    """The layers' outputs for digits in training and in prediction, with a scale and a shift, and for a batch of one."""
    digits = load("digits").train
    assert isinstance(digits, Examples)
    images = digits.inputs.double() / 255
    pixels, patches = images[:, 0, 14, 12:15].contiguous(), images[:, :, 10:18, 10:18].repeat(1, 2, 1, 1).contiguous()
    rows = [
        *_modes("BatchNorm1d, (64, 3)", lambda: _in_float64(BatchNorm1d(3, kernel="aten"), nn.BatchNorm1d(3)), pixels),
        *_modes(
            "BatchNorm2d, (64, 2, 8, 8)", lambda: _in_float64(BatchNorm2d(2, kernel="aten"), nn.BatchNorm2d(2)), patches
        ),
        _batch_of_one("BatchNorm1d, (1, 3)", _in_float64(BatchNorm1d(3, kernel="aten"), nn.BatchNorm1d(3)), pixels[:1]),
        _batch_of_one(
            "BatchNorm2d, (1, 2, 8, 8)", _in_float64(BatchNorm2d(2, kernel="aten"), nn.BatchNorm2d(2)), patches[:1]
        ),
    ]
    equal = sum(row[-1] == "yes" for row in rows)
    return [
        Table(
            (
                *(Column("layer and input", wraps=True), Column("mode", wraps=True)),
                *(Column.of_sentences("normalised by"), "bnkit", Column("torch.nn", 2), "equal"),
            ),
            rows,
            "One input through one layer in each mode",
            f"{equal} of {len(rows)} rows are equal. The same input gives other outputs in training and in prediction; a "
            "batch of one is refused after a linear layer (one value a channel, whose deviation is 0), and works after a "
            "convolution, on its H·W values a channel.",
        )
    ]


def _in_float64(ours: nn.Module, theirs: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The layers in float64, so that different orders of summation give visibly equal results."""
    return ours.double(), theirs.double()


def _modes(name: str, make: Callable[[], tuple[nn.Module, nn.Module]], data: Tensor) -> list[tuple[str, ...]]:
    x = data[:_BATCH]
    ours, theirs = make()
    rows = [_row(name, "training", "the batch's mean and variance", ours(x), theirs(x))]
    for start in range(_BATCH, len(data) - _BATCH, _BATCH):
        for layer in (ours, theirs):
            layer(data[start : start + _BATCH])
    ours.eval(), theirs.eval()
    rows.append(_row(name, "prediction", "the moving average", ours(x), theirs(x)))

    model = nn.Sequential(ours)
    over = [0, *range(2, data.dim())]
    variance, mean = torch.var_mean(data, over, correction=1)
    with normalising_by(model, population_statistics(model, [data[:500], data[500:]])):
        by_population = model(x)
    expected = functional.batch_norm(x, mean, variance)
    close = largest_difference(by_population, expected) <= _ROUNDING
    rows.append(_row(name, "prediction", "the whole data set's statistics", by_population, expected, close))

    ours, theirs = make()
    for layer in (ours, theirs):
        nn.init.constant_(layer.weight, 2.0)  # type: ignore[arg-type]
        nn.init.constant_(layer.bias, -1.0)  # type: ignore[arg-type]
    rows.append(_row(name, "training, γ = 2 and β = −1", "the batch's, then stretched and shifted", ours(x), theirs(x)))
    return rows


def _batch_of_one(name: str, layers: tuple[nn.Module, nn.Module], x: Tensor) -> tuple[str, ...]:
    """The output for a training batch of one, or that it is refused."""
    mode = "training, a batch of one"
    results: list[Tensor | None] = []
    for layer in layers:
        try:
            results.append(layer(x))
        except ValueError:
            results.append(None)
    ours, theirs = results
    if ours is not None and theirs is not None:
        return _row(name, mode, f"{x[0, 0].numel()} values a channel", ours, theirs)
    texts = ["refused" if result is None else first_values(result) for result in results]
    return (name, mode, "nothing: one value a channel", *texts, "yes" if ours is theirs else "no")


def _row(name: str, mode: str, by: str, ours: Tensor, theirs: Tensor, equal: bool | None = None) -> tuple[str, ...]:
    equal = torch.equal(ours, theirs) if equal is None else equal
    return (name, mode, by, first_values(ours), first_values(theirs), "yes" if equal else "no")
