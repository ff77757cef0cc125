"""Moments and quantiles of tensors that are worked on together, against plain torch on each of them."""

from __future__ import annotations

import pytest
import torch

from bnkit.model.instrument.dead_units import DeadUnitFractions
from bnkit.model.instrument.distributions import QUANTILES, Distributions

# Shape, and where the units are. The last ones are too large to be kept.
SHAPES = [
    ((16, 6), -1),
    ((16, 6), 1),
    ((7,), 0),
    ((3, 5, 4), -1),
    ((4, 3, 5, 5), 1),
    ((1, 1), 1),
    ((300, 200), -1),
    ((9, 8, 40, 41), 1),
]


def _tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    for shape, dimension in SHAPES:
        for scale in (1.0, 100.0):
            yield (torch.randn(shape, generator=generator, dtype=torch.float64) * scale + scale).to(dtype), dimension


def _others(values, dimension):
    return [d for d in range(values.dim()) if d != dimension % values.dim()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_moments_are_those_of_each_tensor_by_itself(dtype):
    noted, tensors = Distributions(), list(_tensors(dtype))
    assert [noted.note(values, dimension) for values, dimension in tensors] == list(range(len(tensors)))
    for distribution, (given, dimension) in zip(noted.compute(), tensors, strict=True):
        values, others = given.double(), _others(given, dimension)
        means = values.mean(others) if others else values
        deviations = values.std(others, correction=0) if others else torch.zeros_like(values)
        torch.testing.assert_close(torch.from_numpy(distribution.means), means, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(distribution.deviations), deviations, rtol=1e-5, atol=1e-4)
        assert distribution.figures["mean"] == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-4)
        assert distribution.figures["deviation"] == pytest.approx(values.std(correction=0).item(), rel=1e-4, abs=1e-4)


def test_quantiles_of_small_tensors_are_exact_and_of_large_ones_close():
    noted, tensors = Distributions(), list(_tensors())
    for values, dimension in tensors:
        noted.note(values, dimension)
    for distribution, (values, _) in zip(noted.compute(), tensors, strict=True):
        ordered = values.flatten().sort().values
        exact = [ordered[round(share * (len(ordered) - 1))].item() for share in QUANTILES]
        # The standard error of the outer quantiles of 2,000 normal values is 0.05 deviations.
        tolerance = 0.2 * values.std().item() if len(ordered) > 2048 else 0.0
        assert distribution.figures["quantiles"] == pytest.approx(exact, rel=1e-4, abs=tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(64, 64, 1, 1), (256, 256, 1, 1), (8, 64, 16, 16), (128, 32, 8, 8)], ids=str)
def test_a_sample_of_the_values_meets_all_units_alike(shape, memory_format):
    """Each unit has a value of its own; a stride that divides their number would meet some of them only."""
    values = torch.arange(shape[1]).float().view(1, -1, 1, 1).expand(shape).contiguous(memory_format=memory_format)
    noted = Distributions()
    noted.note(values, 1)
    (distribution,) = noted.compute()
    expected = [share * (shape[1] - 1) for share in QUANTILES]
    assert distribution.figures["quantiles"] == pytest.approx(expected, abs=1 + 0.02 * shape[1])


@pytest.mark.parametrize("shape", [(16, 6), (300, 200)], ids=["small", "large"])
def test_what_changes_after_it_was_noted_was_noted_before(shape):
    values, noted, dead = torch.ones(shape), Distributions(), DeadUnitFractions()
    noted.note(values, 1)
    dead.note(values, (0.0,))
    values.zero_()
    noted.note(values, 1)
    dead.note(values, (0.0,))
    assert [distribution.figures["mean"] for distribution in noted.compute()] == [1.0, 0.0]
    assert [distribution.figures["quantiles"] for distribution in noted.compute()] == [[1.0] * 5, [0.0] * 5]
    assert dead.compute() == [0.0, 1.0]


def test_nothing_noted_and_no_quantiles_wanted():
    assert Distributions().compute() == []
    noted = Distributions(quantiles=False)
    noted.note(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), -1)
    (distribution,) = noted.compute()
    assert distribution.figures == {"mean": 3.0, "deviation": pytest.approx(3.5**0.5, rel=1e-4)}
    assert (distribution.means.tolist(), distribution.deviations.tolist()) == ([2.0, 4.0], [1.0, 2.0])


def test_dead_shares_of_outputs_of_one_shape_with_different_limits():
    output = torch.tensor([[0.0, 1.0, 0.0, 0.999], [0.0, 0.0, 0.001, 1.0]])
    dead = DeadUnitFractions()
    for limits in ((0.0,), (0.0, 1.0), (0.0,), (-1.0, 1.0)):
        dead.note(output, limits)
    assert dead.compute() == [0.25, 0.75, 0.25, 0.25]
