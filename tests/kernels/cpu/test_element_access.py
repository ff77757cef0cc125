"""The activations that are straight lines, as the compiled loops compute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bnkit.kernels.activation import FUNCTIONS
from bnkit.kernels.cpu.element_access import elements

VALUES = (-torch.inf, -7.0, -0.5, 0.0, 0.5, 6.0, 7.0, torch.inf, torch.nan)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "relu6"])
def test_straight_activations_and_their_gradients(activation):
    """NaN stays NaN, as in PyTorch; Python's ``max(0.0, nan)`` is 0."""
    access = elements("float32", activation, nontemporal=False, float64_compute=False)
    x = torch.tensor(VALUES, requires_grad=True)
    y = FUNCTIONS[activation](x)
    values = [access.activate(np.float32(value)) for value in VALUES]
    torch.testing.assert_close(torch.tensor(values), y.detach(), rtol=0, atol=1e-7, equal_nan=True)
    (gradients,) = torch.autograd.grad(y, x, torch.full_like(x, 2.0))
    values = [access.activation_backward(np.float32(2.0), np.float32(value)) for value in VALUES[:-1]]
    torch.testing.assert_close(torch.tensor(values), gradients[:-1])
