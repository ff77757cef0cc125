"""What a batch norm that waits returns: whatever is done with it, its network computes what it computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from bnkit import nn as ours
from bnkit.errors import ModelError
from bnkit.model.layers.deferred_fusion import DeferredOutput, Deferring
from bnkit.model.layers.put_mixin_before_class import mix_in


def _layers(*, waits=True):
    layer = ours.BatchNorm2d(3, kernel="aten")
    nn.init.uniform_(layer.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    if waits:
        mix_in(layer, Deferring)
        layer.awaits_sum, layer.awaited_activation, layer.passed_through, layer.waits_always = True, "relu", (), True
    return layer


def _alias_then_sum(layer, x, r):
    first = layer(x)
    second = first
    first += r
    return functional.relu(first) + second


def _in_place_seen_by_an_alias(layer, x, r):
    first = layer(x)
    second = first
    return torch.relu_(first) + second


def _read_afterwards(layer, x, r):
    first = layer(x)
    total = first + r
    return functional.relu(total) * first + total


def _read_before(layer, x, r):
    first = layer(x)
    kept = first * 2
    return functional.relu(first + r) + kept


def _without_gradient(layer, x, r):
    with torch.no_grad():
        first = layer(x)
    return functional.relu(first + r)


def _looked_at_without_gradient(layer, x, r):
    first = layer(x)
    with torch.no_grad():
        size = first.abs().max()
    return functional.relu(first + r) / size


def _doubled(layer, x, r):
    first = layer(x)
    return functional.relu(first + first)


def _written_into(layer, x, r):
    first = layer(x)
    first[0] = 0.0
    return functional.relu(first)


_USES = {  # what a network does with the output of a layer
    "an alias": _alias_then_sum,
    "an alias of what is activated in place": _in_place_seen_by_an_alias,
    "read behind the sum": _read_afterwards,
    "read before the sum": _read_before,
    "computed without gradients": _without_gradient,
    "looked at without gradients": _looked_at_without_gradient,
    "another activation": lambda layer, x, r: functional.gelu(layer(x)),
    "another slope": lambda layer, x, r: functional.leaky_relu(layer(x), 0.3),
    "added to itself": _doubled,
    "a number added": lambda layer, x, r: functional.relu(layer(x) + 1.0),
    "two sums": lambda layer, x, r: functional.relu(layer(x) + r + x),
    "a row added": lambda layer, x, r: functional.relu(layer(x) + r[:1]),
    "another dtype added": lambda layer, x, r: functional.relu(layer(x) + r.double()),
    "twice as much added": lambda layer, x, r: functional.relu(torch.add(layer(x), r, alpha=2)),
    "subtracted": lambda layer, x, r: functional.relu(r - layer(x)),
    "two layers added": lambda layer, x, r: functional.relu(layer(x) + layer(r)),
    "added in place to a tensor": lambda layer, x, r: functional.relu(r.clone().add_(layer(x))),
    "written into": _written_into,
    "multiplied in place": lambda layer, x, r: functional.relu(layer(x).mul_(2)),
    "joined": lambda layer, x, r: torch.cat([layer(x), r], 1),
    "a view": lambda layer, x, r: layer(x).flatten(1).relu(),
    "the shape": lambda layer, x, r: functional.relu(layer(x)) * layer(x).shape[0] * layer(x).dim(),
    "an operation by its overload": lambda layer, x, r: torch.ops.aten.mul.Tensor(layer(x), r),
    "an operator": lambda layer, x, r: r * layer(x) ** 2,
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", _USES)
def test_every_use_is_that_of_the_output(name, training):
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.randn(4, 3, 5, 5, generator=generator, requires_grad=True) for _ in range(2))
    found = []
    for layer in (_layers(waits=False), _layers()):
        layer.train(training)
        output = _USES[name](layer, x * 1, r * 1)
        leaves = [x, r, *layer.parameters()]
        gradients = torch.autograd.grad(output.sum(), leaves, allow_unused=True) if output.requires_grad else ()
        found.append([output.detach(), *gradients, *layer.buffers()])
    assert type(output) is torch.Tensor
    for expected, got in zip(*found, strict=True):
        assert (expected is None) == (got is None)
        if got is not None:
            torch.testing.assert_close(got, expected)


def test_it_waits_and_knows_its_shape():
    layer, x = _layers(), torch.randn(4, 3, 5, 5)
    output = layer(x)
    assert isinstance(output, DeferredOutput)
    assert (output.shape, output.dtype, output.device, output.ndim) == (x.shape, x.dtype, x.device, 4)
    assert layer.num_batches_tracked == 0
    assert functional.relu(output).detach().min() == 0
    assert layer.num_batches_tracked == 1


def _hooked(layer):
    layer.register_forward_hook(lambda *arguments: None)


def _hooked_around(layer):
    around = nn.Identity()
    around.register_full_backward_hook(lambda *arguments: None)
    layer.passed_through = (around,)


@pytest.mark.parametrize(
    "change",
    [
        _hooked,
        _hooked_around,
        lambda layer: setattr(layer, "sync", True),
        lambda layer: setattr(layer, "virtual_batch_size", 2),
        lambda layer: setattr(layer, "activation", "tanh"),
        lambda layer: setattr(layer, "waits_always", False),  # PyTorch's kernel does one step in a pass
    ],
)
def test_it_does_not_wait_where_its_output_is_looked_at_or_nothing_is_gained(change):
    layer = _layers()
    change(layer)
    assert type(layer(torch.randn(4, 3, 5, 5))) is torch.Tensor


def test_it_does_not_wait_for_a_residual_or_mask():
    layer, x = _layers(), torch.randn(4, 3, 5, 5)
    assert type(layer(x, x)) is torch.Tensor
    assert type(layer(x, None, torch.ones(4, 1, 5, 5, dtype=torch.bool))) is torch.Tensor


def test_hooks_on_all_modules_see_outputs():
    layer, seen = _layers(), []
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(type(output)))
    try:
        layer(torch.randn(4, 3, 5, 5))
    finally:
        hook.remove()
    assert seen == [torch.Tensor]


def test_under_a_transform_or_a_trace_nothing_waits():
    layer, x = _layers().eval(), torch.randn(4, 3, 5, 5)
    layer.kernel = "auto"
    expected = functional.relu(layer(x))
    torch.testing.assert_close(torch.func.vmap(lambda y: functional.relu(layer(y)))(x[None])[0], expected)
    network = nn.Sequential(layer, nn.ReLU())
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)


@pytest.mark.parametrize("which", [0, 1])
def test_an_input_that_was_changed_meanwhile_is_an_error(which):
    layer = _layers()
    tensors = [torch.randn(4, 3, 5, 5) for _ in range(2)]
    output = layer(tensors[0]) + tensors[1]
    tensors[which].zero_()
    with pytest.raises(ModelError, match="changed in place before its output was used"):
        functional.relu(output)


def test_in_inference_mode():
    layer, x = _layers().eval(), torch.randn(4, 3, 5, 5)
    expected = functional.relu(layer(x) + x)
    with torch.inference_mode():
        torch.testing.assert_close(functional.relu(layer(x * 1) + x), expected)


def test_past_pythons_functions_a_gradient_would_be_lost():
    output = _layers()(torch.randn(4, 3, 5, 5))
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(ModelError, match="no gradient"):
        torch.mul(output, 2)


def test_its_text_says_what_it_waits_for():
    assert "fused='sum and relu'" in repr(_layers())
