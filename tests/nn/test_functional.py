from __future__ import annotations

import inspect

import pytest
import torch

from bnkit.errors import SettingsError, TooFewValuesError
from bnkit.nn.functional import batch_norm
from tests.cases.kernels import KERNELS


def test_the_first_arguments_are_pytorchs():
    theirs = list(inspect.signature(torch.nn.functional.batch_norm).parameters.values())
    ours = list(inspect.signature(batch_norm).parameters.values())[: len(theirs)]
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("kernel", ["reference", "aten"])
def test_the_running_buffers_move_as_pytorchs(kernel):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = ([torch.full((3,), 0.5), torch.full((3,), 2.0)] for _ in range(2))
    batch_norm(x, *ours, training=True, momentum=0.3, kernel=kernel)
    torch.nn.functional.batch_norm(x, *theirs, training=True, momentum=0.3)
    torch.testing.assert_close(ours, theirs)


def test_half_precision_buffers_are_read_in_evaluation():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).half()
    mean, variance = torch.ones(3).half(), torch.full((3,), 4.0).half()
    expected = (x.double() - 1) / (4 + 1e-5) ** 0.5
    for kernel in ("reference", "aten"):
        torch.testing.assert_close(
            batch_norm(x, mean, variance, kernel=kernel).double(), expected, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input": torch.zeros(3)}, SettingsError, r"shape \(3,\); expected \(N, C\)"),
        ({}, SettingsError, "no running statistics; expected both, or training=True"),
        ({"training": True, "eps": -1.0}, SettingsError, "eps=-1.0"),
        ({"training": True, "activation": "mish"}, SettingsError, "unknown activation 'mish'"),
        ({"training": True, "input": torch.zeros(1, 3)}, TooFewValuesError, "one value per channel"),
    ],
    ids=["dimensions", "statistics", "eps", "activation", "one-value"],
)
def test_invalid_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        batch_norm(**{"input": torch.zeros(4, 3), "running_mean": None, "running_var": None, **arguments})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_too_few_values_for_the_channels_are_refused_and_not_read_beyond(kernel, name, training):
    """The loops read and write at addresses."""
    given = {
        "weight": torch.ones(4),
        "bias": torch.ones(4),
        "running_mean": torch.zeros(4),
        "running_var": torch.ones(4),
    }
    given[name] = given[name][:3].clone()
    with pytest.raises(SettingsError, match=rf"batch_norm got a {name} of shape \(3,\); expected \(4,\)"):
        batch_norm(torch.randn(6, 4, 5, 5), **given, training=training, kernel=kernel)
