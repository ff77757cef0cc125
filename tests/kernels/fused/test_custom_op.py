"""The compiled loops as operations of PyTorch, and under everything that PyTorch does to operations."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.library import opcheck

from bnkit.errors import KernelError
from bnkit.kernels import select
from bnkit.kernels.fused.custom_op import batch_norm, batch_norm_backward
from bnkit.nn import BatchNorm1d, BatchNorm2d
from tests.cases.kernels import FUSED, INTERPRETED
from tests.cases.selection import selected

select(FUSED, torch.zeros(4, 3))  # loads the kernel: an operation does not
SHAPES = {"linear": (7, 3), "images": (4, 3, 5, 6), "large planes": (2, 3, 24, 24), "few positions": (6, 4, 3, 1)}
if INTERPRETED:  # a program for each channel, 50 ms each time: planes and rows
    SHAPES = {"linear": (7, 3), "images": (3, 2, 3, 4)}


def _arguments(shape, *, affine=True, residual=True, masked=False, given=False, activation="relu"):
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    channels, count = shape[1], torch.Size(shape).numel() // shape[1]
    mask = None
    if masked:
        mask = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < 0.7
        count = int(mask.sum())
    known = None
    if given:
        mean, variance = torch.rand(channels, dtype=torch.float64), torch.rand(channels, dtype=torch.float64) + 0.5
        known = torch.stack([mean, variance, (variance + 1e-3).rsqrt(), variance, mean, mean])
    return (
        leaf(*shape),
        leaf(channels) if affine else None,
        leaf(channels) if affine else None,
        leaf(*shape) if residual else None,
        mask,
        known,
        activation,
        1e-3,
        count,
        False,
        FUSED,
    )


KINDS = {
    "all": {},
    "plain": {"affine": False, "residual": False, "activation": None},
    "masked": {"masked": True},
    "given": {"given": True, "activation": "leaky_relu"},
}


OPCHECKED = (
    {("linear", "all"), ("linear", "masked")}
    if INTERPRETED
    else {("linear", "all"), ("images", "plain"), ("linear", "masked"), ("linear", "given")}
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        # The checks are of the operation, whatever the shape: the small ones here.
        pytest.param(*both, marks=[] if both in OPCHECKED else [pytest.mark.exhaustive])
        for both in itertools.product(SHAPES, KINDS)
    ],
)
def test_opcheck(shape, kind):
    shape = SHAPES[shape]
    arguments = _arguments(shape, **KINDS[kind])
    opcheck(batch_norm, arguments)
    x, weight, bias, residual, mask, given, activation, eps, count, _, _ = arguments
    with torch.no_grad():
        y, statistics = batch_norm(*arguments)
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias, residual)]
    gradient = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    bends = y if residual is not None and activation is not None else None
    opcheck(
        batch_norm_backward,
        (gradient, *leaves, bends, mask, statistics, activation, eps, count, given is not None, FUSED),
    )


@pytest.mark.parametrize(
    "kind", KINDS if not INTERPRETED else selected(zip(KINDS), lambda kind: kind in ("all", "masked"))
)
def test_gradients_and_their_gradients(kind):
    x, weight, bias, residual, *others = _arguments((3, 2, 4), **KINDS[kind])
    leaves = [t for t in (x, weight, bias, residual) if t is not None]

    def compute(*leaves):
        rest = iter(leaves)
        return batch_norm(*(None if t is None else next(rest) for t in (x, weight, bias, residual)), *others)[0]

    assert torch.autograd.gradcheck(compute, leaves, fast_mode=INTERPRETED)
    assert torch.autograd.gradgradcheck(compute, leaves, fast_mode=INTERPRETED)


@pytest.mark.parametrize("in_dims", [(0, None), (1, 0)])
def test_vmap_of_the_operation(in_dims):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 5, 3, generator=generator, dtype=torch.float64)
    weight = torch.rand(5, 3, generator=generator, dtype=torch.float64) if in_dims[1] == 0 else torch.rand(3).double()

    def compute(x, weight):
        return batch_norm(x, weight, None, None, None, None, "relu", 1e-5, 5, False, FUSED)

    got = torch.vmap(compute, in_dims)(x, weight)
    singles = [
        compute(x.select(in_dims[0], i).contiguous(), weight[i] if in_dims[1] == 0 else weight) for i in range(5)
    ]
    for part, expected in zip(got, zip(*singles, strict=True), strict=True):
        torch.testing.assert_close(part, torch.stack(expected))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [FUSED, "auto"])
def test_compiled_and_exported_with_the_same_numbers(kernel):
    x = torch.randn((3, 2, 4, 4) if INTERPRETED else (40, 8, 24, 24), generator=torch.Generator().manual_seed(0))
    plain = BatchNorm2d(x.shape[1], activation="relu", kernel=kernel)
    compiled = torch.compile(copy.deepcopy(plain), fullgraph=True, backend="aot_eager")
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(leaf) for layer, leaf in zip((plain, compiled), leaves, strict=True)]
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(leaves[1].grad, leaves[0].grad)
    torch.testing.assert_close(compiled._orig_mod.state_dict(), plain.state_dict())

    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(plain.eval(), (x,), dynamic_shapes=({0: batch},))
    targets = {str(node.target) for node in program.graph.nodes}
    # Who asked for no kernel gets a program that runs without bnkit.
    assert any("bnkit" in target for target in targets) == (kernel == FUSED)
    torch.testing.assert_close(program.module()(x[:2]), plain(x[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [FUSED, "auto", "reference"])
def test_functional_gradients_are_not_silently_zero(kernel):
    generator = torch.Generator().manual_seed(0)
    x, tangent = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    layer = BatchNorm1d(3, activation="relu", track_running_stats=False, dtype=torch.float64, kernel=kernel)

    def loss(x):
        return layer(x).pow(3).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(
        torch.relu(nn.functional.batch_norm(leaf, None, None, layer.weight, layer.bias, True)).pow(3).sum(), leaf
    )
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    _, derivative = torch.func.jvp(loss, (x,), (tangent,))
    torch.testing.assert_close(derivative, (expected * tangent).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        derivative = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(derivative, (expected * tangent).sum())
    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    stacked = torch.func.vmap(torch.func.grad(loss))(torch.stack([x, x]))
    torch.testing.assert_close(stacked, torch.stack([expected, expected]))


def test_training_of_stacked_modules_by_name():
    groups = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    layers = [BatchNorm1d(3, kernel=FUSED) for _ in groups]
    parameters, buffers = torch.func.stack_module_state(layers)

    def forward(parameters, buffers, x):
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    output = torch.func.vmap(forward)(parameters, buffers, groups)
    torch.testing.assert_close(output, torch.stack([layer(x) for layer, x in zip(layers, groups, strict=True)]))
    for name, layer_index in itertools.product(("running_mean", "running_var"), range(4)):
        torch.testing.assert_close(buffers[name][layer_index], getattr(layers[layer_index], name))


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_an_operation_refuses_shapes_that_do_not_fit(place):
    """Any code can call it, and its loops read at addresses."""
    arguments = list(_arguments((4, 3, 2, 2), masked=True, given=True))
    arguments[place] = arguments[place].detach()[:, :1] if place == 3 else arguments[place].detach()[:2]
    with pytest.raises(KernelError, match="expected"):
        batch_norm(*arguments)


def test_a_gradient_of_another_shape_is_refused():
    x, weight, bias = (t.detach() for t in _arguments((4, 3, 2, 2))[:3])
    _, statistics = batch_norm(x, weight, bias, None, None, None, None, 1e-3, 16, False, FUSED)
    with pytest.raises(KernelError, match="a gradient of shape"):
        batch_norm_backward(x[:3], x, weight, bias, None, None, None, statistics, None, 1e-3, 16, False, FUSED)


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_an_operation_refuses_dtypes_that_do_not_fit(place):
    """Half as many bytes would be read beyond their end."""
    arguments = [
        a.detach() if isinstance(a, torch.Tensor) else a for a in _arguments((4, 3, 2, 2), masked=True, given=True)
    ]
    arguments[place] = arguments[place].half()
    with pytest.raises(KernelError, match=r"float16 on cpu; expected"):
        batch_norm(*arguments)


@pytest.mark.parametrize(
    ("place", "said"), [(0, "x with strides"), (1, "weight with strides"), (3, "residual with strides")]
)
def test_an_operation_refuses_what_lies_otherwise(place, said):
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in _arguments((4, 3, 2, 2))]
    arguments[place] = arguments[place].repeat_interleave(2, dim=-1)[..., ::2]
    with pytest.raises(KernelError, match=said):
        batch_norm(*arguments)


def test_a_mask_in_channels_last_is_right_on_a_gpu_and_refused_on_the_cpu():
    """The compiled loops of the CPU go over planes where there is a mask."""
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in _arguments((4, 3, 2, 2), masked=True)]
    expected, _ = batch_norm(*arguments)
    for place in (0, 3):
        arguments[place] = arguments[place].contiguous(memory_format=torch.channels_last)
    if INTERPRETED:
        torch.testing.assert_close(batch_norm(*arguments)[0], expected, rtol=1e-12, atol=1e-12)
        return
    with pytest.raises(KernelError, match="not contiguous"):
        batch_norm(*arguments)


def test_strides_of_single_positions_do_not_matter():
    arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in _arguments((4, 3, 1, 1))]
    expected, _ = batch_norm(*arguments)
    arguments[3] = arguments[3].as_strided((4, 3, 1, 1), (3, 1, 7, 9))
    assert arguments[3].stride() != arguments[0].stride()
    torch.testing.assert_close(batch_norm(*arguments)[0], expected, rtol=0, atol=0)


def test_a_gradient_of_another_dtype_is_refused_and_one_that_lies_otherwise_is_not():
    x, weight, bias = (t.detach() for t in _arguments((4, 3, 2, 2))[:3])
    gradient = torch.rand(4, 3, 2, 2, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    _, statistics = batch_norm(x, weight, bias, None, None, None, None, 1e-3, 16, False, FUSED)
    rest = (x, weight, bias, None, None, None, statistics, None, 1e-3, 16, False, FUSED)
    with pytest.raises(KernelError, match="a gradient of shape"):
        batch_norm_backward(gradient.float(), *rest)
    lies_otherwise = gradient.contiguous(memory_format=torch.channels_last)
    assert lies_otherwise.stride() != gradient.stride()
    for ours, expected in zip(
        batch_norm_backward(lies_otherwise, *rest), batch_norm_backward(gradient, *rest), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_a_kernel_that_is_not_loaded_is_named():
    *arguments, _ = _arguments((4, 3, 2, 2))
    with pytest.raises(KernelError, match=rf"got the kernel 'tritn', which is not loaded; expected one of .*{FUSED}"):
        batch_norm(*arguments, "tritn")
