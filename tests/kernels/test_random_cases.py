"""Two thousand random cases: whatever the shape, the layout, the values and the arguments, no further off than PyTorch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnkit.nn.functional import batch_norm
from tests.cases.kernels import INTERPRETED, KERNELS
from tests.error_bounds import assert_within_error_bound
from tests.random_examples import examples, is_exhaustive

EPS = 1e-5
# Mean and deviation of the values: ordinary, with digits to lose, tiny, and such that squares overflow in float32.
SPREADS = {
    "normal": (0.3, 1.0),
    "large mean": (1e4, 1e-2),
    "small": (0.0, 1e-4),
    "large": (-3e4, 1e4),
    "huge": (1e19, 1e20),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of 500 cases for a kernel, a fifth of them in `make test`.
SHARES = {"float32": 200, "float64": 100, "bfloat16": 100, "float16": 100}
# What is drawn there, activation and residual: for each of these, six loops are compiled, in two seconds each.
FUSED = {
    "float32": (("relu", True), (None, False)),
    "float64": (("tanh", True),),
    "bfloat16": (("relu", False),),
    "float16": ((None, False),),
}
ACTIVATIONS = {None: nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "tanh": nn.Tanh()}


@st.composite
def _shapes(draw):
    dimensions = draw(st.integers(2, 5))
    channels = draw(st.sampled_from((1, 2, 3, 5, 6, 16, 17, 64)))
    spatial = [draw(st.sampled_from((1, 2, 3, 5, 7, 8, 11, 24))) for _ in range(dimensions - 2)]
    examples = draw(st.sampled_from((1, 2, 3, 5, 8, 13, 32, 101)))
    shape = (examples, channels, *spatial)
    if examples * math.prod(spatial) < 2:
        shape = (2, channels, *spatial)
    while math.prod(shape) > 200_000:
        shape = (max(1, shape[0] // 2), channels, *(max(1, size // 2) for size in spatial))
        spatial = shape[2:]
    return shape


FIXED = st.fixed_dictionaries({
    "shape": _shapes(),
    "layout": st.sampled_from(("contiguous", "last", "expanded", "every second", "transposed")),
    "spread": st.sampled_from(tuple(SPREADS)),
    "outlier": st.booleans(),  # the first value of each channel, which a guess of the mean would take
    "affine": st.booleans(),
    "training": st.booleans(),
    "seed": st.integers(0, 99),
})  # fmt: skip


def _cases(dtype):
    every = tuple(itertools.product(ACTIVATIONS, (False, True)))
    return st.tuples(FIXED, st.sampled_from(every if is_exhaustive() or INTERPRETED else FUSED[dtype]))


def _laid_out(x, layout):
    if layout == "last" and x.dim() in (4, 5):
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "expanded":
        return x[:1].expand(x.shape) if x.shape[0] < 4 and x[0, 0].numel() > 1 else x
    if layout == "every second":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "transposed":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


def _tensors(case):
    generator = torch.Generator().manual_seed(case["seed"])
    shape, dtype = case["shape"], DTYPES[case["dtype"]]
    mean, deviation = SPREADS[case["spread"] if case["dtype"] not in ("bfloat16", "float16") else "normal"]
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * deviation + mean
    if case["outlier"]:
        x.reshape(shape[0], shape[1], -1)[0, :, 0] += 30 * deviation
    parameters = [torch.rand(shape[1], generator=generator) + 0.5, torch.randn(shape[1], generator=generator)]
    residual = torch.randn(shape, generator=generator)
    return [
        _laid_out(x.to(dtype), case["layout"]),
        *((p.to(dtype) for p in parameters) if case["affine"] else (None, None)),
        residual.to(dtype) if case["adds"] else None,
    ], torch.randn(shape, generator=generator).to(dtype)


def _run(compute, tensors, upstream):
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = compute(*leaves)
    known = [leaf for leaf in leaves if leaf is not None]
    return [output.detach(), *torch.autograd.grad(output, known, upstream)]


def _check(case, kernel):
    tensors, upstream = _tensors(case)
    channels, activation, training = case["shape"][1], case["activation"], case["training"]
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    buffers = {"given": (torch.linspace(-1, 1, channels), torch.linspace(0.5, 2, channels))}

    def normalise(which, compute, dtype):
        mean = torch.linspace(-1, 1, channels, dtype=dtype)
        variance = torch.linspace(0.5, 2, channels, dtype=dtype)
        buffers[which] = mean, variance

        def run(x, weight, bias, residual):
            return compute(x, mean, variance, weight, bias, residual)

        return run

    def ours(x, mean, variance, weight, bias, residual):
        return batch_norm(
            x, mean, variance, weight, bias, training, 0.3, EPS, activation=activation, residual=residual, kernel=kernel
        )

    def theirs(x, mean, variance, weight, bias, residual):
        weight, bias = (p if p is None else p.to(mean.dtype) for p in (weight, bias))
        output = nn.functional.batch_norm(x, mean, variance, weight, bias, training, 0.3, EPS)
        output = output if residual is None else output + residual
        return ACTIVATIONS[activation](output)

    got = _run(normalise("ours", ours, wide), tensors, upstream)
    expected = _run(normalise("theirs", theirs, wide), tensors, upstream)
    exact = _run(
        normalise("exact", theirs, torch.float64),
        [None if t is None else t.double() for t in tensors],
        upstream.double(),
    )
    bends = activation in ("relu", "leaky_relu")  # beside the kink a rounding step decides between two slopes
    names = [name for name, t in zip(("input", "weight", "bias", "residual"), tensors, strict=True) if t is not None]
    terms = _largest_terms(tensors, upstream, *buffers["given"], training=training)
    mean, deviation = SPREADS[case["spread"]]
    condition = 1 + abs(mean) / deviation
    for what, *values in zip(["output", *names], got, expected, exact, strict=True):
        if what == "output" or not bends:
            _assert_close(*values, what, terms.get(what, 0.0), condition)
    for what, *values in zip(("mean", "variance"), *(buffers[w] for w in ("ours", "theirs", "exact")), strict=True):
        if not training:
            assert torch.equal(values[0], values[1])
        elif values[2].abs().max() < torch.finfo(wide).max:
            # Of half precision, squares are added up in float32, where values that recur round the same way every time.
            steps = 8 if tensors[0].dtype.itemsize == 2 else 1
            _assert_close(*values, what, steps * values[2].abs().max().item(), condition)


def _largest_terms(tensors, upstream, mean, variance, *, training):
    """Of the sums that the gradients are."""
    x, weight = tensors[0].double(), tensors[1]
    shape, over = (1, -1, *[1] * (x.dim() - 2)), [0, *range(2, x.dim())]
    if training:
        variance, mean = torch.var_mean(x, over, correction=0)
    inverse = (variance.double() + EPS).rsqrt()
    normalised = (x - mean.double().view(shape)) * inverse.view(shape)
    upstream = upstream.double().abs()
    scale = inverse if weight is None else inverse * weight.double().abs()
    # What is taken off a gradient is as large as the gradients are, times the largest normalised value.
    largest = upstream.amax(over) * scale * (1 + normalised.abs().amax(over))
    return {
        "input": largest.max().item(),
        "weight": (upstream * normalised.abs()).sum(over).max().item(),
        "bias": upstream.sum(over).max().item(),
    }


def _assert_close(ours, theirs, exact, what, largest_term, condition):
    if ours.dtype != torch.float64:
        assert_within_error_bound(ours, theirs, exact, what, largest_term)
        return
    # There is nothing wider to compare with: a rounding step of the mean, in deviations, is the least that both are off by.
    close = max(1e-10, 100 * torch.finfo(torch.float64).eps * condition)
    tolerance = close * max(largest_term, exact.abs().max().item())
    torch.testing.assert_close(ours, exact, rtol=close, atol=tolerance, msg=lambda text: f"{what}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [*KERNELS, "auto"])
def test_no_further_off_than_pytorch(kernel, dtype):

    @given(drawn=_cases(dtype))
    @settings(max_examples=SHARES[dtype] // 30 if INTERPRETED else examples(SHARES[dtype]))
    def check(drawn):
        case, (activation, adds) = drawn
        _check({**case, "activation": activation, "adds": adds, "dtype": dtype}, kernel)

    check()
