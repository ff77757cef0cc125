"""Tensors whose numbers do not lie side by side in memory, in every role and kernel, against the equations in float64."""

from __future__ import annotations

import pytest
import torch

from bnkit.errors import KernelError
from bnkit.kernels import select
from bnkit.kernels.activation import activate
from bnkit.kernels.fused import custom_op
from bnkit.kernels.fused.operands import in_layout_of
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from tests.cases.kernels import INTERPRETED, KERNELS
from tests.cases.selection import pairwise


def _sliced(t):
    room = torch.full((*t.shape[:-1], 2 * t.shape[-1]), float("nan"), dtype=t.dtype)
    room[..., ::2] = t
    return room[..., ::2]


def _offset(t):
    room = torch.empty(t.numel() + 1, dtype=t.dtype)
    return room[1:].copy_(t.flatten()).view(t.shape)


def _misaligned(t):
    room = bytearray(t.numel() * t.element_size() + 1)
    return torch.frombuffer(room, dtype=t.dtype, offset=1).view(t.shape).copy_(t)


def _imaginary(t):
    """The numbers in memory have the other sign, and every second one is none of them."""
    return torch.complex(torch.full_like(t, 7), -t).conj().imag


def _channels_last(t):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return t.contiguous(memory_format=formats.get(t.dim(), torch.contiguous_format))


def _expanded(t):
    """Over the channels; a tensor of one value a channel over the only dimension."""
    return t[:, :1].expand(t.shape) if t.dim() > 1 else t[:1].expand(t.shape)


KINDS = {
    "sliced": _sliced,
    "offset": _offset,
    "misaligned": _misaligned,
    "negated": lambda t: torch._neg_view(-t),
    "imaginary": _imaginary,
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": _channels_last,
    "expanded": _expanded,
}
LAYERS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
ROLES = ("x", "weight", "bias", "running_mean", "running_var", "residual", "gradient")
# With what else: an activation, a residual, a mask, and how many examples at a time.
SETTINGS = {
    "plain": (None, False, False, None),
    "fused": ("leaky_relu", True, False, None),
    "not fused": ("gelu", True, False, None),
    "masked": ("tanh", True, True, None),
    "virtual": (None, True, False, 5),
}


def _values(shape, dtype):
    generator = torch.Generator().manual_seed(3)
    channels = (shape[1],)

    def random(size):
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    values = {role: random(channels if role.startswith(("weight", "bias", "running")) else shape) for role in ROLES}
    return {**values, "weight": values["weight"] + 2, "running_var": values["running_var"].abs() + 0.5}


def _expected(values, training, activation, adds, mask, size):
    """The output, both running statistics, and the gradients of x, weight, bias and residual, by the equations."""
    v = {role: t.to(torch.float64, copy=True) for role, t in values.items()}
    wanted = [v[role].requires_grad_() for role in ("x", "weight", "bias", *(("residual",) if adds else ()))]
    x, over = v["x"], [0, *range(2, v["x"].dim())]
    mean, var = v["running_mean"], v["running_var"]
    parts = []
    for part in range(0, len(x), size or len(x)):
        rows = slice(part, part + (size or len(x)))
        counts = torch.ones_like(x[rows, :1]) if mask is None else mask[rows].double()
        m, s = mean, var
        if training:
            n = counts.sum()
            m = (x[rows] * counts).sum(over) / n
            s = ((x[rows] - _wide(m, x)).square() * counts).sum(over) / n
            mean, var = 0.9 * mean + 0.1 * m.detach(), 0.9 * var + 0.1 * s.detach() * n / (n - 1)
        y = (x[rows] - _wide(m, x)) / _wide(s + 1e-5, x).sqrt() * _wide(v["weight"], x) + _wide(v["bias"], x)
        parts.append(activate(y + v["residual"][rows] if adds else y, activation))
    output = torch.cat(parts)
    return [output.detach(), mean, var, *torch.autograd.grad(output, wanted, v["gradient"])]


def _assert_close(what, got, expected):
    for name, a, b in zip(("output", "mean", "var", *ROLES[:3], "residual"), got, expected, strict=False):
        error, bound = (a.double() - b).abs().max(), 2e-5 * b.abs().max()
        assert error <= bound, f"{what}: {name} is off by {error}, more than {bound}"


def _wide(statistic, x):
    return statistic.reshape(1, -1, *[1] * (x.dim() - 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "shape", "setting", "training"),
    pairwise(["auto", *KERNELS], [(7, 5), (17, 64), (7, 3, 4, 5), (4, 3, 2, 3, 2)], SETTINGS, [True, False]),
)
def test_every_memory_layout_in_every_role(kernel, shape, setting, training):
    """Each kind in each role, the others plain. Of (N, C), PyTorch's own kernel reads what stands in gaps."""
    activation, adds, masks, size = SETTINGS[setting]
    dtype = torch.float32
    mask = (torch.arange(shape[0] * shape[-1]) % 3 > 0).reshape(shape[0], *[1] * (len(shape) - 2), -1)
    mask = mask.expand(shape[0], 1, *shape[2:]) if masks and len(shape) > 2 else None
    for role in ROLES if adds else [r for r in ROLES if r != "residual"]:
        for kind, lies in KINDS.items():
            if kind == "expanded" and (role.startswith("running") and training):
                continue  # refused
            values = _values(shape, dtype)
            values[role] = lies(values[role])
            expected = _expected(values, training, activation, adds, mask, size)
            layer = LAYERS[len(shape)](shape[1], activation=activation, virtual_batch_size=size, kernel=kernel)
            layer.train(training)
            for name in ("weight", "bias"):
                layer._parameters[name] = values[name].requires_grad_()
            for name in ("running_mean", "running_var"):
                layer._buffers[name] = values[name]
            wanted = [values[r].requires_grad_() for r in ("x", "weight", "bias", *(("residual",) if adds else ()))]
            output = layer(values["x"], values["residual"] if adds else None, mask)
            gradients = torch.autograd.grad(output, wanted, values["gradient"])
            got = [output, values["running_mean"], values["running_var"], *gradients]
            _assert_close(f"{kind} {role}", got, expected)
            assert layer.running_mean is values["running_mean"]  # in place


@pytest.mark.parametrize("kernel", ["auto", *KERNELS])
def test_the_gradient_that_a_conjugate_gives(kernel):
    """What comes back through it is a view that negates; PyTorch hands it on so."""
    x = torch.randn(8, 4, 24, 40, generator=torch.Generator().manual_seed(0))
    layer = BatchNorm2d(4, kernel=kernel)
    gradients = []
    for conjugate in (True, False):
        z = x.clone().requires_grad_()
        y = layer(z)
        together = torch.complex(x, y) if not conjugate else torch.complex(x, -y).conj()
        (together * torch.complex(x, x.flip(0))).abs().square().sum().backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_zeros_without_memory_are_zeros():
    x = torch.randn(3, 2, 4)
    assert in_layout_of(x, torch._efficientzerotensor((3, 2, 4))).tolist() == torch.zeros(3, 2, 4).tolist()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(4, 3, dtype=torch.int64), "torch.int64; expected .* a floating dtype"),
        (torch.ones(4), r"shape \(4,\).* expected \(N, C\)"),
        (torch.ones(4, 6)[:, ::2], "strides"),
    ],
    ids=["integers", "dimensions", "strides"],
)
def test_what_the_operation_called_by_hand_refuses(x, message):
    with pytest.raises(KernelError, match=message):
        custom_op.batch_norm(x, None, None, None, None, None, None, 1e-5, 4, False)


@pytest.mark.skipif(INTERPRETED, reason="of the loops for the CPU")
def test_the_operation_called_by_hand_with_a_view_that_negates():
    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    select("numba", x)  # loads the kernel: an operation does not
    weight = torch.tensor([1.0, 2.0, 3.0])
    expected, statistics = custom_op.batch_norm(x, weight, None, None, None, None, None, 1e-5, 24, False)
    negated = torch._neg_view(-x), torch._neg_view(-weight)
    got, again = custom_op.batch_norm(*negated, None, None, None, None, None, 1e-5, 24, False)
    torch.testing.assert_close([got, again[:4]], [expected, statistics[:4]])
