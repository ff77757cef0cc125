"""The curves of the compiled loops against PyTorch's in float64."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from numba import njit

from bnkit.kernels.activation import FUNCTIONS, SLOPE_BY_RESULT
from bnkit.kernels.cpu.smooth_activations import smooth_activations
from tests.cases.selection import selected

CURVES = ["sigmoid", "tanh", "silu", "gelu"]
DTYPES = {np.float32: torch.float32, np.float64: torch.float64}
# Where something changes: 0; between two powers of two; where the result vanishes; where an exponential would overflow.
EDGES = (
    0.0,
    0.3465,
    0.3467,
    1.0397,
    1.0398,
    43.4,
    43.6,
    86.9,
    87.1,
    88.8,
    103.9,
    104.1,
    707.9,
    708.1,
    709.8,
    745.2,
    1e4,
    1e30,
)


def _arguments(dtype):
    spread = [torch.linspace(-width, width, 20_001, dtype=torch.float64) for width in (1e-6, 1e-2, 1.0, 20.0, 120.0)]
    return torch.cat([*spread, torch.tensor(EDGES), -torch.tensor(EDGES)]).to(dtype)


_smooth_activations = cache(smooth_activations)  # of each, what follows is compiled once for all tests


@cache
def _compiled(function, columns):
    """``function`` over all elements of ``columns`` arrays."""
    if columns == 1:

        @njit
        def run(result, x):
            for i in range(x.size):
                result[i] = function(x[i])
    else:

        @njit
        def run(result, x, y):
            for i in range(x.size):
                result[i] = function(x[i], y[i])

    return run


def _computed(function, *columns):
    result = torch.empty_like(columns[0])
    _compiled(function, len(columns))(result.numpy(), *(column.numpy() for column in columns))
    return result


def _assert_close(found, exact, steps):
    """Within some rounding steps; what is too small for a number of full precision may be 0."""
    kind = torch.finfo(found.dtype)
    off, allowed = (found.double() - exact).abs(), steps * kind.eps * exact.abs() + 1000 * kind.tiny
    assert (off <= allowed).all(), f"off by {off.max()}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "number"),
    selected(
        itertools.product(CURVES, DTYPES), lambda activation, number: number is np.float32 or activation == "gelu"
    ),
)
def test_activation_values(activation, number):
    x = _arguments(DTYPES[number])
    activate, _ = _smooth_activations(activation, number, number)
    if activation == "gelu":  # PyTorch's own cancels far below 0; the exponential of a square has the error of that
        exact = x.double() * torch.erfc(-x.double() * math.sqrt(0.5)) / 2
        _assert_close(_computed(activate, x), exact, steps=7 + x.double().square())
    else:
        _assert_close(_computed(activate, x), FUNCTIONS[activation](x.double()), steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("number", DTYPES)
@pytest.mark.parametrize("activation", CURVES)
def test_activation_gradients(activation, number):
    z = _arguments(torch.float64).requires_grad_()
    y = FUNCTIONS[activation](z)
    gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (exact,) = torch.autograd.grad(y, z, gradient)
    _, through = _smooth_activations(activation, number, number)
    known = (y if activation in SLOPE_BY_RESULT else z).detach().to(DTYPES[number])
    output = _computed(through, gradient.to(DTYPES[number]), known)
    eps = torch.finfo(output.dtype).eps
    torch.testing.assert_close(
        output.double(), exact, rtol=8 * eps, atol=8 * eps
    )  # 1 - y loses digits where y is near 1


@pytest.mark.slow
@pytest.mark.parametrize("number", DTYPES)
@pytest.mark.parametrize("activation", CURVES)
def test_nan_and_infinity(activation, number):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=DTYPES[number])
    activate, _ = _smooth_activations(activation, number, number)
    # In float64: PyTorch's gelu of infinity is NaN in float32.
    expected = FUNCTIONS[activation](x.double()).to(x.dtype)
    torch.testing.assert_close(_computed(activate, x), expected, equal_nan=True)
