from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from bnkit.experiments.networks.initial_weights import seeded_weights
from bnkit.seeding import seeded


def _states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_the_global_generators_are_left_as_they_were():
    before = _states()
    with seeded(0, "x"), seeded_weights(3):
        nn.Linear(3, 3)
        torch.rand(2), np.random.rand(2), random.random()
    assert _states() == before
    with pytest.raises(ZeroDivisionError), seeded(1):
        torch.rand(1), np.random.rand(1), random.random()
        _ = 1 / 0
    assert _states() == before


def test_a_key_decides_all_three_generators():
    def draw(*key):
        with seeded(*key):
            return torch.rand(1).item(), float(np.random.rand()), random.random()

    assert draw(0, "epoch", 1) == draw(0, "epoch", 1)
    assert len({*draw(0, "epoch", 1), *draw(0, "epoch", 2), *draw(1, "epoch", 1)}) == 9
