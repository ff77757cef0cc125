"""The loop that writes PyTorch's batch normalization anew gives PyTorch's bits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bnkit.kernels.cpu import aten_affine as home
from bnkit.kernels.cpu.aten_affine import affine, affine_layout, coefficients, is_possible

pytestmark = pytest.mark.skipif(not is_possible(), reason="PyTorch's kernels round products here: the loop is not used")

SHAPES = [
    (64, 10),
    (33, 1),
    (3, 5, 17),
    (4, 3, 5, 5),
    (8, 16, 32, 32),
    (2, 64, 7, 7),
    (2, 33, 9, 9),
    (3, 130, 2, 2),
    (5, 7, 1, 1),
    (1, 1, 64, 64),
    (2, 3, 64, 65),
    (16, 256, 8, 8),
    (5, 200, 3, 3),
    (2, 4, 3, 3, 3),
    (2, 16, 4, 6, 8),
]
# Whether a residual is added, and whether that is normalised itself.
RESIDUALS = {"alone": (False, False), "sum": (True, False), "sum of two": (True, True)}
LAYOUTS = {"contiguous": {}, "channels last": {4: torch.channels_last, 5: torch.channels_last_3d}}


def _laid(tensor, layout):
    return tensor.contiguous(memory_format=LAYOUTS[layout].get(tensor.dim(), torch.contiguous_format))


def _bits(tensor):
    return tensor.as_strided((tensor.numel(),), (1,), 0).view(torch.int32)


def _case(shape, layout, affects):
    torch.manual_seed(0)
    x, residual = (_laid(torch.randn(shape) * 3 + 1, layout) for _ in range(2))
    x.flatten()[:1] = 0
    weight, bias = torch.randn(shape[1]), torch.randn(shape[1])
    weight[0] = bias[0] = -0.0
    residual[:, 0] = -0.0
    return x, residual, weight if affects else None, bias if affects else None


@pytest.mark.slow
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("affects", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_output_has_pytorchs_bits(shape, layout, affects, residual, relu):
    x, other, weight, bias = _case(shape, layout, affects)
    adds, norms = RESIDUALS[residual]
    terms = []
    for values in (x, other) if norms else (x,):
        y, mean, rstd = torch.native_batch_norm(values, weight, bias, None, None, True, 0.0, 1e-5)
        terms.append((y, coefficients(mean, rstd, weight, bias, 1e-5, False)))
    expected = terms[0][0]
    if adds:
        expected = expected + (terms[1][0] if norms else other)
    if relu:
        expected = torch.relu(expected)
    output = affine(x, terms[0][1], other if adds else None, terms[1][1] if norms else None, relu)
    assert output.stride() == x.stride()
    assert torch.equal(_bits(output), _bits(expected))


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("shape", [(2, 4000), (4, 300, 5, 5), (2, 64, 40, 3)], ids=str)
def test_evaluation_output_has_pytorchs_bits(shape, eps):
    """The inverse deviation is taken as the forward pass takes it: ``torch.sqrt`` would round another way."""
    torch.manual_seed(0)
    channels = shape[1]
    x, mean, weight, bias = torch.randn(shape), *(torch.randn(channels) for _ in range(3))
    variance = torch.rand(channels) * torch.randn(channels).mul(5).exp()
    expected = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    output = affine(x, coefficients(mean, variance, weight, bias, eps, True), None, None, False)
    assert torch.equal(_bits(output), _bits(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 16, 32, 32), (3, 16, 4, 4)], ids=str)
def test_nontemporal_stores(shape, layout, monkeypatch):
    """As large tensors are written."""
    monkeypatch.setattr(home, "_STREAM_FROM", 1)
    affine_layout.cache_clear()
    try:
        assert affine_layout(*_lies(_laid(torch.empty(shape), layout))).nontemporal
        test_training_output_has_pytorchs_bits(shape, layout, True, "sum", True)
    finally:
        affine_layout.cache_clear()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for layout in LAYOUTS:
            test_training_output_has_pytorchs_bits((8, 16, 32, 32), layout, True, "sum", True)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_pass_through(value):
    x, other, weight, bias = _case((4, 3, 6, 6), "contiguous", True)
    x[0, 0, 0, 0] = other[1, 1, 1, 1] = value
    y, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, 1e-5)
    output = affine(x, coefficients(mean, rstd, weight, bias, 1e-5, False), other, None, True)
    torch.testing.assert_close(output, torch.relu(y + other), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(4, 3, 8, 8)[:, :2], torch.empty(4, 9, 3).transpose(1, 2), torch.empty(0, 3), torch.empty(3)],
    ids=["a slice", "of sequences, channels last", "empty", "of one dimension"],
)
def test_layouts_without_a_loop_give_none(tensor):
    assert affine_layout(*_lies(tensor)) is None


def _lies(tensor):
    return tensor.shape, tensor.stride()
