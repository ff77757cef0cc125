"""The same numbers, bit by bit, in less memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

import bnkit
from bnkit.errors import SettingsError
from bnkit.nn import BatchNorm1d, BatchNorm2d
from tests.cases.selection import pairwise, selected
from tests.memory.networks import NETWORKS, NORMS, Held, assert_same, batch, held, normalised, resnet, step, vgg

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "network", "layout", "mode"), pairwise(NORMS, NETWORKS, LAYOUTS, ["training", "evaluation"])
)
def test_same_numbers(norm, network, layout, mode):
    torch.manual_seed(0)
    model = NETWORKS[network](norm).to(memory_format=LAYOUTS[layout])
    x, targets = batch(memory_format=LAYOUTS[layout])
    warm = step(model, x, targets, again=False)
    model.load_state_dict({**model.state_dict(), **{k: v for k, v in warm.items() if "running" in k}})
    model.train(mode == "training")
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "norm", "dtype"),
    selected(
        itertools.product(NETWORKS, ["torch", "aten", "numba"], [torch.float64, torch.bfloat16]),
        lambda network, norm, dtype: norm != "numba" or (network, dtype) == ("vgg", torch.bfloat16),
    ),
)
def test_same_numbers_in_other_dtypes(network, norm, dtype):
    torch.manual_seed(0)
    model = NETWORKS[network](norm).to(dtype)
    x, targets = batch(dtype=dtype)
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["torch", "functional", "auto", "aten", "numba"])
@pytest.mark.parametrize(("network", "most"), [("vgg", 0.55), ("resnet", 0.6)])
def test_bytes_held_for_the_backward_pass(network, norm, most):
    torch.manual_seed(0)
    model = NETWORKS[network](norm)
    x, targets = batch()
    share = held(model, x, targets, again=True) / held(model, x, targets, again=False)
    assert share <= most, share


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["torch", "numba"])
def test_bytes_held_for_a_long_chain_of_blocks(norm):
    torch.manual_seed(0)
    model, (x, targets) = resnet(norm, widths=(8,), blocks=9), batch()
    share = held(model, x, targets, again=True) / held(model, x, targets, again=False)
    assert share <= 0.6, share
    assert_same(step(model, x, targets, again=True), step(model, x, targets, again=False))


def test_recompute_reports_the_bytes_it_saved():
    model, (x, targets) = vgg("torch"), batch()
    with bnkit.recompute(model) as recomputation:
        functional.cross_entropy(model(x), targets)
    outputs = 2 * 8 * 16 * 16 + 2 * 16 * 8 * 8
    assert (recomputation.dropped, recomputation.bytes_dropped) == (4, 4 * outputs * 4)
    assert str(recomputation) == "4 tensors of 0.1 MB are computed again"


ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "leaky_relu": nn.LeakyReLU(0.2),
    "leaky_relu in place": nn.LeakyReLU(0.2, inplace=True),
    "elu": nn.ELU(),
    "elu in place": nn.ELU(inplace=True),
    "selu": nn.SELU(),
    "celu": nn.CELU(0.5),
    "silu": nn.SiLU(),
    "silu in place": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(),
    "hardswish in place": nn.Hardswish(inplace=True),
    "hardsigmoid": nn.Hardsigmoid(),
    "mish": nn.Mish(),
    "gelu": nn.GELU(),
    "gelu, tanh": nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(),
}


def _numbers(model, x, *, again):
    """Output, gradients, bytes held."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    if again:
        with bnkit.recompute(model) as recomputation:
            output = model(x)
        dropped = recomputation.dropped
    else:
        output, dropped = model(x), 0
    output.square().sum().backward()
    return {"output": output, "x": x.grad, **{n: p.grad for n, p in model.named_parameters()}}, dropped


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_activations_of_torch(name, dimensions):
    torch.manual_seed(0)
    kinds = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}
    convolution, norm = kinds[dimensions]
    model = nn.Sequential(convolution(2, 4, 1), norm(4), ACTIVATIONS[name], convolution(4, 2, 1))
    x = torch.randn(3, 2, *[5] * dimensions)
    expected, _ = _numbers(model, x, again=False)
    numbers, dropped = _numbers(model, x, again=True)
    assert_same(numbers, expected)
    keeps_its_argument = name not in {"none", "sigmoid", "tanh"} and not name.startswith(
        ("relu", "elu in", "leaky_relu in")
    )
    assert dropped == (2 if keeps_its_argument or name.startswith("relu6") else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has_residual", "kernel", "activation"),
    selected(
        itertools.product(
            [False, True],
            ["aten", "numba"],
            ["relu", "leaky_relu", "sigmoid", "silu", "tanh", "gelu", nn.Hardswish()],
        ),
        # With a residual, the loops are those of test_contract.
        lambda has_residual, kernel, activation: (
            (has_residual and activation in ("relu", "silu"))
            if kernel == "numba"
            else has_residual == (activation in ("relu", "tanh", "gelu"))
        ),
    ),
)
def test_activations_of_ours(has_residual, kernel, activation):
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm = BatchNorm2d(4, activation=activation, kernel=kernel)

        def forward(self, x):
            y = self.first(x)
            y = self.norm(y, y) if has_residual else self.norm(y)
            return self.last(y)

    model, x = Model(), torch.randn(4, 2, 33, 33)  # enough for the compiled loops
    expected, _ = _numbers(model, x, again=False)
    numbers, dropped = _numbers(model, x, again=True)
    assert_same(numbers, expected)
    assert dropped >= 1


@pytest.mark.parametrize(
    "extra", [{"virtual_batch_size": 3}, {"momentum": None}, {"skip_nonfinite": True}, {"affine": False}]
)
def test_recompute_with_options_of_our_layers(extra):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), BatchNorm2d(4, activation="relu", **extra), nn.Conv2d(4, 4, 1))
    x = torch.randn(8, 2, 5, 5)
    expected, _ = _numbers(model, x, again=False)
    numbers, dropped = _numbers(model, x, again=True)
    assert_same(numbers, expected)
    assert dropped >= 1


@pytest.mark.slow
@pytest.mark.parametrize("mask", [False, True])
def test_recompute_with_masks(mask):
    torch.manual_seed(0)
    norm, linear = BatchNorm1d(3, activation="relu", kernel="numba"), nn.Conv1d(3, 2, 1)
    x, counts = torch.randn(4, 3, 50), torch.rand(4, 1, 50) > 0.3
    results = []
    for again in (False, True):
        x_copy = x.clone().requires_grad_()
        if again:
            with bnkit.recompute(norm):
                y = linear(norm(x_copy, mask=counts if mask else None))
        else:
            y = linear(norm(x_copy, mask=counts if mask else None))
        results.append((y, *torch.autograd.grad(y.square().sum(), [x_copy, *norm.parameters(), *linear.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


FROZEN = {
    "weight": ["weight"],
    "bias": ["bias"],
    "both": ["weight", "bias"],
}


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("norm", ["torch", "aten", "numba"])
def test_frozen_parameters(frozen, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), *normalised(norm, 4), nn.Conv2d(4, 4, 1))
    nn.init.uniform_(model[1].bias)
    for name in FROZEN[frozen]:
        getattr(model[1], name).requires_grad_(False)
    x = torch.randn(4, 2, 5, 5)
    results = []
    for again in (False, True):
        x_copy = x.clone().requires_grad_()
        if again:
            with bnkit.recompute(model) as recomputation:
                y = model(x_copy)
            assert recomputation.dropped == 1
        else:
            y = model(x_copy)
        results.append(
            torch.autograd.grad(y.square().sum(), [x_copy, *(p for p in model.parameters() if p.requires_grad)])
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_branches_joined_as_in_inception():
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(3, 4, 1), *normalised("torch", 4))
            self.b = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *normalised("auto", 4))
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(torch.cat([self.a(x), self.b(x)], 1))

    model, x = Model(), torch.randn(4, 3, 6, 6)
    expected, _ = _numbers(model, x, again=False)
    numbers, dropped = _numbers(model, x, again=True)
    assert_same(numbers, expected)
    assert dropped == 3  # of each branch, and both


def test_dropout_views_and_linear_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), *normalised("torch", 4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1), *normalised("auto", 4), nn.Flatten(),
        nn.Linear(4 * 36, 8), nn.BatchNorm1d(8), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    x, results = torch.randn(4, 3, 6, 6), []
    for again in (False, True):
        torch.manual_seed(1)
        results.append(_numbers(model, x, again=again))
    assert_same(results[1][0], results[0][0])
    assert results[1][1] == 3  # the third through views: its own output is not kept


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveMaxPool2d(3), nn.AvgPool2d(2)]
)
def test_layers_before_a_pooling_are_recomputed(pool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *normalised("torch", 4), pool, nn.Conv2d(4, 4, 1))
    x = torch.randn(4, 3, 7, 7)
    x[0, 0, 0, 0] = float("nan")  # all values of a channel are none then
    expected, _ = _numbers(model, torch.nan_to_num(x), again=False)
    numbers, dropped = _numbers(model, torch.nan_to_num(x), again=True)
    assert_same(numbers, expected)
    assert dropped == 1
    broken, _ = _numbers(model, x, again=True)
    expected, _ = _numbers(model, x, again=False)
    for name, value in expected.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, equal_nan=True)


def test_places_of_largest_values_take_fewer_bytes():
    """An image of 16 × 16 has 256 places: a byte each instead of eight."""
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)), torch.randn(4, 3, 16, 16)
    sizes = []
    for again in (False, True):
        with Held() as counted:
            if again:
                with bnkit.recompute(model):
                    output = model(x)
            else:
                output = model(x)
        sizes.append(counted.bytes())
        assert output.requires_grad
    assert sizes[0] - sizes[1] == 7 * 4 * 8 * 8 * 8 - 64 * 8  # 64 of them stay, to compare


def test_a_model_is_expected():
    with (
        pytest.raises(SettingsError, match="recompute got a list; expected the model, a torch.nn.Module"),
        bnkit.recompute([]),
    ):
        pass
