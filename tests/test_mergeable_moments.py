from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnkit.mergeable_moments import Moments


@pytest.mark.slow
@settings(max_examples=60)
@given(
    cuts=st.lists(st.integers(0, 50), max_size=6),
    mean=st.floats(-1e4, 1e4),
    deviation=st.floats(1e-3, 1e3),
    seed=st.integers(0, 10),
)
def test_splitting_the_data_another_way_changes_nothing_but_rounding(cuts, mean, deviation, seed):
    values = (
        torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * deviation + mean
    )
    edges = [0, *sorted(cuts), 50]
    parts = [Moments.of(values[a:b]) for a, b in pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    exact = values.transpose(0, 1).flatten(1)
    assert merged.count == 100
    torch.testing.assert_close(merged.mean, exact.mean(1), rtol=1e-12, atol=1e-12 * (abs(mean) + deviation))
    torch.testing.assert_close(merged.variance(), exact.var(1), rtol=1e-7, atol=1e-12 * (mean**2 * 1e-3 + deviation**2))
    torch.testing.assert_close(merged.variance(unbiased=False), merged.variance() * 99 / 100)


def test_a_large_mean_with_a_small_variance_does_not_cancel():
    values = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) * 0.03 + 1000
    merged = Moments.of(values[:7])
    for part in values[7:].split(331):
        merged = merged.merge(Moments.of(part))
    torch.testing.assert_close(merged.variance(), values.double().var(0), rtol=1e-9, atol=0)


def test_nothing_merged_with_nothing_is_nothing():
    nothing = Moments.of(torch.zeros(0, 2))
    assert nothing.merge(nothing).count == 0
