"""The layer under everything that PyTorch does to a module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bnkit.nn import BatchNorm1d, BatchNorm2d

KERNELS = ["auto", "reference"]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def _images():
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def _groups():
    return torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiled_whole(kernel, momentum):
    plain = BatchNorm2d(3, activation="relu", momentum=momentum, skip_nonfinite=True, kernel=kernel)
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    results = []
    for layer in (plain, compiled):
        x = _images().requires_grad_()
        for _ in range(2):
            output = layer(x)
        output.square().sum().backward()
        layer.eval()
        results.append([output, x.grad, layer.weight.grad, *layer.buffers(), layer(x)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_exported_with_any_batch_size(training):
    layer = BatchNorm2d(3, activation="relu").train(training)
    expected = copy.deepcopy(layer)(_images())
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(copy.deepcopy(layer), (_images()[:4],), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(_images()), expected, **TOLERANCE)


def test_vmap_with_buffers_of_its_own_for_each():
    groups = _groups()
    layers = [BatchNorm1d(3) for _ in groups]
    parameters, buffers = torch.func.stack_module_state(layers)
    model = BatchNorm1d(3)

    def forward(parameters, buffers, x):
        return torch.func.functional_call(model, (parameters, buffers), (x,))

    output = torch.func.vmap(forward)(parameters, buffers, groups)
    expected = torch.stack([layer(x) for layer, x in zip(layers, groups, strict=True)])
    torch.testing.assert_close(output, expected, **TOLERANCE)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(buffers[name], torch.stack([getattr(layer, name) for layer in layers]))


def test_vmap_with_shared_buffers_takes_the_mean_over_the_batch():
    groups = _groups()
    shared = BatchNorm1d(3, skip_nonfinite=True)
    output = torch.func.vmap(shared)(groups)
    apart = [BatchNorm1d(3) for _ in groups]
    torch.testing.assert_close(
        output, torch.stack([layer(x) for layer, x in zip(apart, groups, strict=True)]), **TOLERANCE
    )
    for name in ("running_mean", "running_var"):
        expected = torch.stack([getattr(layer, name) for layer in apart]).mean(0)
        torch.testing.assert_close(getattr(shared, name), expected)
    assert shared.num_batches_tracked == 1


@pytest.mark.slow
def test_func_grad_and_jvp_by_value():
    x, tangent = _groups()[0], _groups()[1]
    layer = BatchNorm1d(3, activation="tanh")
    state = {name: value.detach().clone() for name, value in layer.state_dict().items()}

    def loss(weight, x):
        copied = {name: value.clone() for name, value in state.items()}
        return torch.func.functional_call(layer, {**copied, "weight": weight}, (x,)).square().sum()

    weight = layer.weight.detach().clone().requires_grad_()
    expected = torch.autograd.grad(
        torch.tanh(nn.functional.batch_norm(x, None, None, weight, None, True)).square().sum(), weight
    )
    torch.testing.assert_close(torch.func.grad(loss)(weight.detach(), x), expected[0], **TOLERANCE)

    wide, direction = x.double(), tangent.double()
    state = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    one = torch.ones(3, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda x: loss(one, x), (wide,), (direction,))
    step = 1e-6
    numeric = (loss(one, wide + step * direction) - loss(one, wide - step * direction)) / (2 * step)
    assert derivative != 0
    torch.testing.assert_close(derivative, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_moves_the_statistics_once(reentrant):
    plain, checkpointed = BatchNorm2d(3), BatchNorm2d(3)
    a, b = (_images().requires_grad_() for _ in range(2))
    plain(a).square().sum().backward()
    checkpoint(checkpointed, b, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert checkpointed.num_batches_tracked == 1
    assert torch.equal(plain.running_mean, checkpointed.running_mean)


def test_under_autocast_the_output_has_the_inputs_dtype_and_the_statistics_stay_wide():
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4))
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(_images())
    assert output.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in layer[1].state_dict().values()} == {torch.float32, torch.int64}


def test_pytorchs_update_bn_sees_the_layer():
    model = nn.Sequential(nn.Flatten(), BatchNorm1d(48))
    torch.optim.swa_utils.update_bn([_images()], model)
    torch.testing.assert_close(model[1].running_mean, _images().flatten(1).mean(0))
