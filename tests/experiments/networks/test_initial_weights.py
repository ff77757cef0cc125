from __future__ import annotations

import pytest
import torch
from torch import nn

from bnkit.experiments.networks import ARCHITECTURES, ARMS, network_sources
from bnkit.experiments.networks.initial_weights import seeded_weights
from bnkit.experiments.run_settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("init", ["default", "xavier", "kaiming"])
def test_every_arm_begins_with_the_same_weights(architecture, init):
    sources = network_sources([architecture], list(ARMS))
    settings = Settings(init=init)
    plain = sources["no_batch_norm"].build((1, 28, 28), 10, settings, seed=4).state_dict()
    for source in sources.values():
        other = source.build((1, 28, 28), 10, settings, seed=4).state_dict()
        # A layer that is normalised may go without its bias; every weight is there, and what is in both is equal.
        assert all(name.endswith(".bias") for name in plain.keys() - other.keys())
        assert all(torch.equal(plain[name], other[name]) for name in plain.keys() & other.keys())
    another_seed = sources["no_batch_norm"].build((1, 28, 28), 10, settings, seed=5).state_dict()
    assert not torch.equal(plain["out.weight"], another_seed["out.weight"])


def test_a_missing_bias_or_one_more_layer_shifts_no_weights_behind_it():
    def build(bias, extra):
        with seeded_weights(0):
            first = nn.Linear(4, 5, bias=bias)
            middle = [nn.Linear(9, 9)] if extra else []
            return nn.Sequential(first, *middle, nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6))

    one, other = build(True, False), build(False, True)
    for layer, twin in ((one[0], other[0]), (one[1], other[2]), (one[2], other[3]), (one[3], other[4])):
        assert torch.equal(layer.weight, twin.weight)
    assert not torch.equal(one[2].weight, one[3].weight)
    assert torch.equal(one[3].bias, other[4].bias)


def test_initial_weights_have_the_distribution_that_was_asked_for():
    with seeded_weights(0):
        layer = nn.Linear(400, 500)
        orthogonal = nn.init.orthogonal_(torch.empty(40, 40))
    bound = 400**-0.5
    assert layer.weight.abs().max() <= bound
    torch.testing.assert_close(layer.weight.std(), torch.tensor(bound / 3**0.5), rtol=0.01, atol=0)
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(40), rtol=0, atol=1e-5)
