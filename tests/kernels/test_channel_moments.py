"""The moments of planes by the compiled loops, against float64."""

from __future__ import annotations

import pytest
import torch

from bnkit.kernels.channel_moments import plane_moments
from bnkit.mergeable_moments import Moments


def _draw(*shape, mean=0.0, deviation=1.0):
    return mean + deviation * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 3, 7, 7), (1, 5, 1), (2, 3, 1021), (3, 1, 5, 6, 7), (4, 32, 57, 57)], ids=str)
def test_every_channel_and_example(shape, dtype):
    x = _draw(*shape, mean=3.0, deviation=2.0).to(dtype)
    found, exact = plane_moments(x), x.double().flatten(2)
    assert torch.allclose(found.means, exact.mean(2), rtol=1e-6, atol=1e-6)
    merged, whole = found.whole, Moments.of(x)
    assert merged.count == whole.count
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-6, atol=1e-6)
    assert torch.allclose(merged.variance(unbiased=False), whole.variance(unbiased=False), rtol=2e-6)


def test_a_large_mean_and_a_small_deviation_do_not_cancel():
    x = _draw(4, 2, 128, 128, mean=1e4, deviation=1e-2).float()
    merged, exact = plane_moments(x).whole, Moments.of(x)
    assert torch.allclose(merged.mean, exact.mean, rtol=1e-11)
    assert torch.allclose(merged.variance(), exact.variance(), rtol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_what_is_not_finite_or_overflows_shows_in_its_channel_alone(value):
    x = _draw(3, 4, 33).float()
    x[1, 2] = value
    x[1, 2, 0] = 0.0
    merged, exact = plane_moments(x).whole, Moments.of(x)
    assert merged.squared_deviations.isfinite().tolist() == exact.squared_deviations.isfinite().tolist()
    assert torch.allclose(merged.mean, exact.mean, rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.ones(4, 3), id="no positions"),
        pytest.param(torch.ones(0, 3, 2), id="empty"),
        pytest.param(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), id="channels last"),
        pytest.param(torch.ones(2, 3, 4, dtype=torch.int64), id="integers"),
    ],
)
def test_unsupported_inputs_have_no_moments(x):
    assert plane_moments(x) is None


def test_the_same_on_one_thread_and_on_several():
    x = _draw(4, 64, 50, 50).float()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(plane_moments(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].means, found[1].means)
    assert torch.equal(found[0].whole.squared_deviations, found[1].whole.squared_deviations)
