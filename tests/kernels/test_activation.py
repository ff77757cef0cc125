from __future__ import annotations

import pytest
import torch

from bnkit.kernels.activation import FUNCTIONS, IN_PLACE, MODULES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_module_function_and_in_place_function_compute_the_same(name):
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    assert torch.equal(MODULES[name]()(x), FUNCTIONS[name](x))
    assert torch.equal(IN_PLACE.get(name, FUNCTIONS[name])(x.clone()), FUNCTIONS[name](x))


def test_every_name_has_a_module():
    assert MODULES.keys() == FUNCTIONS.keys()
