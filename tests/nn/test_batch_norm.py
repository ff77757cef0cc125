"""The layers against ``torch.nn``: train, then evaluate, then compare numbers."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from bnkit import nn as ours
from bnkit.errors import SettingsError, TooFewValuesError
from tests.cases.batch_norm import CASES
from tests.cases.kernels import INTERPRETED, KERNELS
from tests.cases.selection import selected
from tests.error_bounds import assert_within_error_bound

OUR_LAYERS = {1: ours.BatchNorm1d, 2: ours.BatchNorm2d, 3: ours.BatchNorm3d}
THEIR_LAYERS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _pair(case, kernel, dtype=torch.float32):
    our = OUR_LAYERS[case.dimensions](case.shape[1], dtype=dtype, kernel=kernel, **case.arguments)
    their = THEIR_LAYERS[case.dimensions](case.shape[1], dtype=dtype, **case.arguments)
    if our.affine:
        with torch.no_grad():
            their.weight.copy_(torch.linspace(0.5, 2, case.shape[1]))
            their.bias.copy_(torch.linspace(-1, 1, case.shape[1]))
    our.load_state_dict(their.state_dict(), strict=True)
    return our, their


def _step(layer, x):
    x = x.detach().requires_grad_()
    layer.zero_grad()
    output = layer(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=x.dtype).reshape(output.shape)).sum().backward()
    return [output.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "case",
    # Interpreted, every third: what differs between the kernels is in test_contract.
    selected(
        ((case,) for case in CASES),
        lambda case: not INTERPRETED or CASES.index(case) % 3 == 0,
        name=lambda case: case.name,
    ),
)
def test_training_then_evaluation_has_pytorchs_numbers(kernel, case):
    our, their = _pair(case, kernel)
    _, exact = _pair(case, kernel, torch.float64)
    for x in case.inputs(torch.float32):
        for values in zip(_step(our, x), _step(their, x), _step(exact, x.double()), strict=True):
            assert_within_error_bound(*values, "training")
    for (name, buffer), theirs, wide in zip(our.named_buffers(), their.buffers(), exact.buffers(), strict=True):
        assert_within_error_bound(
            buffer, theirs, wide, name
        ) if buffer.is_floating_point() else torch.testing.assert_close(buffer, theirs)
    our.eval(), their.eval(), exact.eval()
    x = case.inputs(torch.float32)[0]
    # The buffers differ by a rounding step, so evaluation is compared from the same ones.
    our.load_state_dict(their.state_dict(), strict=True)
    exact.load_state_dict(their.state_dict(), strict=True)
    for values in zip(_step(our, x), _step(their, x), _step(exact, x.double()), strict=True):
        assert_within_error_bound(*values, "evaluation")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_aten_kernel_is_pytorch_to_the_bit(case):
    our, their = _pair(case, "aten")
    for x in case.inputs(torch.float32):
        for got, expected in zip(_step(our, x), _step(their, x), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("layer", [ours.BatchNorm1d, ours.BatchNorm2d, ours.BatchNorm3d])
def test_weights_move_both_ways_with_strict(layer):
    their_class = layer.__mro__[2]
    our, their = layer(3, activation="relu", skip_nonfinite=True), their_class(3)
    assert isinstance(our, their_class)
    assert list(our.state_dict()) == list(their.state_dict())
    their.load_state_dict(our.state_dict(), strict=True)
    our.load_state_dict(their.state_dict(), strict=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_activation_and_residual(kernel):
    x, residual = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    layer, their = ours.BatchNorm2d(3, activation="silu", kernel=kernel), nn.BatchNorm2d(3)
    torch.testing.assert_close(layer(x, residual), nn.functional.silu(their(x) + residual))


def test_an_activation_may_be_a_module_with_parameters():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    prelu = nn.PReLU(3)
    layer = ours.BatchNorm2d(3, activation=prelu)
    torch.testing.assert_close(layer(x), prelu(nn.BatchNorm2d(3)(x)))
    assert "activation.weight" in layer.state_dict()


def test_gamma_and_beta_are_weight_and_bias():
    layer = ours.BatchNorm1d(3)
    assert layer.gamma is layer.weight
    assert layer.beta is layer.bias


def test_bias_can_be_left_out():
    layer = ours.BatchNorm1d(3, bias=False)
    assert layer.bias is None
    assert layer.weight is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_that_is_not_finite_is_skipped_and_counted(kernel, value):
    good = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[2, 1] = value
    layer = ours.BatchNorm1d(3, skip_nonfinite=True, kernel=kernel)
    clean = ours.BatchNorm1d(3, kernel=kernel)
    layer(good), layer(bad), layer(good)
    clean(good), clean(good)
    assert torch.equal(layer.running_mean, clean.running_mean)
    assert torch.equal(layer.running_var, clean.running_var)
    assert layer.num_batches_tracked == 3
    assert layer.num_batches_skipped == 1
    layer.reset_running_stats()
    assert layer.num_batches_skipped == 0
    poisoned = ours.BatchNorm1d(3, kernel=kernel)
    poisoned(bad)
    assert not torch.isfinite(poisoned.running_mean).all()


def test_skipped_batches_have_no_weight_in_the_cumulative_average():
    good = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0))
    layer = ours.BatchNorm1d(2, momentum=None, skip_nonfinite=True)
    layer(torch.full((8, 2), float("nan")))
    for batch in good:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, good.mean((0, 1)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0)])
def test_an_empty_batch_counts_and_moves_nothing(kernel, shape):
    layer = ours.BatchNorm1d(3, activation="relu", kernel=kernel)
    layer(torch.randn(4, 3))
    before = [layer.running_mean.clone(), layer.running_var.clone()]
    x = torch.zeros(shape, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.shape == x.grad.shape == shape
    assert torch.equal(layer.weight.grad, torch.zeros(3))
    assert torch.equal(layer.bias.grad, torch.zeros(3))
    assert torch.equal(layer.running_mean, before[0])
    assert torch.equal(layer.running_var, before[1])
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_value_per_channel_is_refused_and_changes_nothing(kernel):
    layer = ours.BatchNorm1d(3, kernel=kernel)
    with pytest.raises(TooFewValuesError) as caught:
        layer(torch.zeros(1, 3))
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "BatchNorm1d(num_features=3) got an input of shape (1, 3)" in message
    assert all(way in message for way in ("drop_last=True", "larger batch", "freeze"))
    assert layer.num_batches_tracked == 0
    layer.eval()
    assert layer(torch.zeros(1, 3)).shape == (1, 3)


def test_a_convolutions_batch_of_one_has_height_times_width_values():
    x = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.BatchNorm2d(3)(x), nn.BatchNorm2d(3)(x))


def test_turning_tracking_off_later_does_what_pytorch_does():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    our, their = ours.BatchNorm1d(3), nn.BatchNorm1d(3)
    for layer in (our, their):
        layer(x)
        layer.track_running_stats = False
    torch.testing.assert_close(our(x), their(x))
    torch.testing.assert_close(our.running_mean, their.running_mean)
    our.eval(), their.eval()
    torch.testing.assert_close(our(x), their(x))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_changes_between_two_steps_counts_in_the_second(kernel):
    """A layer remembers what it chose for inputs that were alike, and nothing else."""
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    our, their = ours.BatchNorm2d(3, kernel=kernel), nn.BatchNorm2d(3)
    torch.testing.assert_close(our(x), their(x))
    our.activation, our.momentum, our.eps = "relu", 0.5, 0.1
    their.momentum, their.eps = 0.5, 0.1
    torch.testing.assert_close(our(x), torch.relu(their(x)))
    our.kernel = "reference"
    torch.testing.assert_close(our(x), torch.relu(their(x)))
    our.kernel = kernel
    torch.testing.assert_close(our.double()(x.double()), torch.relu(their.double()(x.double())))
    torch.testing.assert_close(our.state_dict(), their.state_dict())
    with pytest.raises(SettingsError, match="a residual of shape"):
        our(x.double(), torch.zeros(6, 3, 4, 5, dtype=torch.float64))
    with pytest.raises(TooFewValuesError):
        our(x[:1, :, :1, :1].double())


# PyTorch's own kernel moves the running statistics unseen.
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "aten"])
def test_every_buffer_is_known_to_have_changed(kernel):
    layer = ours.BatchNorm2d(3, kernel=kernel)
    before = {name: buffer._version for name, buffer in layer.named_buffers()}
    layer(torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert all(buffer._version > before[name] for name, buffer in layer.named_buffers())
    assert int(layer.num_batches_tracked) == 1


class _Exponential(nn.Module):
    def forward(self, x):
        return x.exp()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_parametrised_weight(kernel):
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    our, their = ours.BatchNorm2d(3, kernel=kernel), nn.BatchNorm2d(3)
    for layer in (our, their):
        register_parametrization(layer, "weight", _Exponential())
    for one, other in zip(_step(our, x), _step(their, x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_tensor_that_outlived_its_transform(kernel):
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = []
    torch.func.grad(lambda x: (kept.append(x * 1.0), x.sum())[1])(x)
    torch.testing.assert_close(ours.BatchNorm2d(3, kernel=kernel)(kept[0]), nn.BatchNorm2d(3)(x))


def test_the_counter_stays_an_integer_in_half_precision():
    layer = ours.BatchNorm2d(3).half()
    assert layer.running_mean.dtype == torch.float16
    assert layer.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (lambda: ours.BatchNorm1d(3, activation="swish"), None, "unknown activation 'swish'; expected one of relu"),
        (lambda: ours.BatchNorm1d(3, activation=torch.relu), None, "unknown activation .*; expected one of relu"),
        (lambda: ours.BatchNorm1d("3"), None, "num_features='3' is a str; expected a whole number"),
        (lambda: ours.BatchNorm1d(3.0), None, "num_features=3.0 is a float; expected a whole number"),
        (lambda: ours.BatchNorm1d(3, eps="1e-5"), None, "eps='1e-5' is a str; expected a number"),
        (lambda: ours.BatchNorm1d(3, momentum="0.1"), None, "momentum='0.1' is a str; expected a number, or None"),
        (lambda: ours.BatchNorm1d(3, kernel="fast"), None, "unknown kernel 'fast'; expected one of auto"),
        (lambda: ours.BatchNorm1d(3), torch.zeros(4, 5), "5 channels; expected 3"),
        (lambda: ours.BatchNorm1d(3, eps=0.0), torch.zeros(4, 3), "eps=0.0 in training; expected a number above 0"),
        (lambda: ours.BatchNorm2d(3), torch.zeros(4, 3), "expected 4D input"),
    ],
    ids=[
        *("activation", "activation that is a function", "features as text", "features as a float", "eps as text"),
        *("momentum as text", "kernel", "channels", "eps", "dimensions"),
    ],
)
def test_invalid_input_is_refused(make, x, message):
    with pytest.raises(ValueError, match=message):
        make()(x)


def test_a_residual_of_another_shape_is_refused():
    with pytest.raises(SettingsError, match=r"residual of shape \(4, 1\); expected the input's, \(4, 3\)"):
        ours.BatchNorm1d(3)(torch.zeros(4, 3), torch.zeros(4, 1))


def test_it_copies_pickles_and_prints():
    layer = ours.BatchNorm2d(3, activation="relu", skip_nonfinite=True, kernel="reference")
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(twin(x), copy.deepcopy(layer)(x))
        assert twin.num_batches_tracked == 2
    assert repr(layer).endswith("activation='relu', skip_nonfinite=True, kernel='reference')")
