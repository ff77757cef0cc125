"""Every kernel, one body: values and all gradients against float64, no further off than PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from bnkit.nn.functional import batch_norm
from tests.cases.batch_norm import CASES
from tests.cases.kernels import INTERPRETED, KERNELS
from tests.cases.selection import pairwise, selected
from tests.error_bounds import assert_within_error_bound

ACTIVATIONS = {
    None: nn.Identity(),
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "relu6": nn.ReLU6(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
}
EPS = 1e-3
# The edit loop tries the two that take different ways through every kernel.
QUICK = (None, "relu")
CASES_BY_NAME = {case.name: case for case in CASES}


def _name(value):
    return ("train" if value else "eval") if isinstance(value, bool) else getattr(value, "name", str(value))


def _rows(*factors):
    """Every pair of values; interpreted, where a row takes seconds, every case with one of each."""
    if not INTERPRETED:
        return pairwise(*factors, name=_name, slow=lambda *row: row[-2] not in QUICK)
    *others, cases = [list(factor) for factor in factors]
    turns = [tuple(other[turn % len(other)] for other in others) for turn in range(len(cases))]
    return selected(product(*others, cases), lambda *row: row[:-1] == turns[cases.index(row[-1])], name=_name)


def _tensors(case, dtype):
    x, residual, upstream = case.inputs(dtype)
    generator = torch.Generator().manual_seed(1)
    channels = case.shape[1]
    weight = torch.rand(channels, generator=generator, dtype=torch.float64) + 0.5
    bias = torch.randn(channels, generator=generator, dtype=torch.float64)
    return [x, weight.to(dtype), bias.to(dtype), residual / residual.abs().max()], upstream / upstream.abs().max()


def _run(compute, tensors, upstream):
    leaves = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
    output = compute(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream)]


@pytest.mark.parametrize(
    ("kernel", "training", "activation", "case"), _rows(KERNELS, (True, False), ACTIVATIONS, CASES)
)
def test_output_and_gradients_are_as_exact_as_pytorchs(kernel, training, activation, case):
    channels = case.shape[1]
    mean, variance = torch.linspace(-1, 1, channels), torch.linspace(0.5, 2, channels)

    def ours(x, weight, bias, residual):
        statistics = (None, None) if training else (mean.to(x.dtype), variance.to(x.dtype))
        return batch_norm(
            x, *statistics, weight, bias, training, eps=EPS, activation=activation, residual=residual, kernel=kernel
        )

    def theirs(x, weight, bias, residual):
        statistics = (None, None) if training else (mean.to(x.dtype), variance.to(x.dtype))
        normalised = nn.functional.batch_norm(x, *statistics, weight, bias, training, eps=EPS)
        return ACTIVATIONS[activation](normalised + residual)

    tensors, upstream = _tensors(case, torch.float32)
    exact = _run(theirs, [tensor.double() for tensor in tensors], upstream.double())
    expected = _run(theirs, tensors, upstream)
    got = _run(ours, tensors, upstream)
    for what, *values in zip(("output", "input", "weight", "bias", "residual"), got, expected, exact, strict=True):
        if activation in ("relu", "leaky_relu", "relu6") and what != "output":
            continue  # beside the kink a rounding step decides between two slopes: see the float64 test
        assert_within_error_bound(*values, what)
    if case.layout is not CASES_BY_NAME["transposed"].layout:
        assert got[0].stride() == expected[0].stride()


@pytest.mark.parametrize(
    ("kernel", "activation", "case"),
    _rows(KERNELS, list(ACTIVATIONS)[:3] if INTERPRETED else ACTIVATIONS, CASES),
)
def test_float64_agrees_with_pytorch(kernel, activation, case):
    def ours(x, weight, bias, residual):
        return batch_norm(
            x, None, None, weight, bias, True, eps=EPS, activation=activation, residual=residual, kernel=kernel
        )

    def theirs(x, weight, bias, residual):
        return ACTIVATIONS[activation](nn.functional.batch_norm(x, None, None, weight, bias, True, eps=EPS) + residual)

    tensors, upstream = _tensors(case, torch.float64)
    # A rounding step of the mean, in deviations: against 80-bit floats, PyTorch is off by 4e-8 at mean 1000 and deviation
    # 0.03, and the reference by 1e-8.
    rows = tensors[0].transpose(0, 1).flatten(1)
    condition = 1 + (rows.mean(1).abs() / (rows.var(1, correction=0) + EPS).sqrt()).max().item()
    for got, expected in zip(_run(ours, tensors, upstream), _run(theirs, tensors, upstream), strict=True):
        torch.testing.assert_close(
            got, expected, rtol=1e-11 * condition, atol=1e-11 * condition * max(1.0, expected.abs().max().item())
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parameters", ["float32", "same"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_accumulates_in_float32(kernel, parameters, dtype):
    generator = torch.Generator().manual_seed(3)
    # 9,000 values a channel: added up in half precision, their sum would stop growing.
    x = (torch.randn(9000, 2, generator=generator) + 3).to(dtype)
    weight, bias = torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 1.0])
    if parameters == "same":
        weight, bias = weight.to(dtype), bias.to(dtype)
    mean, variance = torch.zeros(2), torch.ones(2)
    output = batch_norm(x, mean, variance, weight, bias, True, momentum=1.0, kernel=kernel)
    exact = nn.functional.batch_norm(x.double(), None, None, weight.double(), bias.double(), True)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
    torch.testing.assert_close(mean.double(), x.double().mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), x.double().var(0), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "activation", "training"),
    selected(
        product(KERNELS, [None, "relu", "silu"] if INTERPRETED else ACTIVATIONS, [True, False]),
        lambda kernel, activation, training: not INTERPRETED or training == (activation != "relu"),
        name=_name,
    ),
)
def test_differentiable_twice(kernel, activation, training):
    generator = torch.Generator().manual_seed(0)
    channels = 1 if INTERPRETED else 3
    x, residual = (
        torch.randn(4, channels, 2, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    weight, bias = (
        torch.rand(channels, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    mean, variance = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)

    def compute(x, weight, bias, residual):
        statistics = (None, None) if training else (mean, variance)
        return batch_norm(
            x, *statistics, weight, bias, training, activation=activation, residual=residual, kernel=kernel
        )

    # Interpreted, along one random direction, and not along all.
    assert torch.autograd.gradcheck(compute, (x, weight, bias, residual), fast_mode=INTERPRETED)
    assert torch.autograd.gradgradcheck(compute, (x, weight, bias, residual), fast_mode=INTERPRETED)
