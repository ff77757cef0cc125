"""Tensors of all kinds: taken with the right values, or refused in one line."""

from __future__ import annotations

import pytest
import torch

from bnkit.data import DataSet, Examples, prepare
from bnkit.data.tensor_conversion import to_float32
from bnkit.errors import DataError

_VALUES = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
_TARGETS = torch.tensor([0, 1, 0])


def _inference():
    with torch.inference_mode():
        return _VALUES.clone()


@pytest.mark.parametrize(
    "inputs",
    [
        *(
            _VALUES.to(dtype)
            for dtype in (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32)
        ),
        *(_VALUES.to(dtype) for dtype in (torch.uint64, torch.float16, torch.bfloat16, torch.float64)),
        _VALUES.to(torch.float8_e4m3fn),
        _VALUES.clone().requires_grad_(),
        torch.nn.Parameter(_VALUES),
        -torch._neg_view(_VALUES),
        torch.stack([_VALUES, _VALUES], 2)[:, :, 0],
        _inference(),
    ],
    ids=lambda inputs: f"{type(inputs).__name__}-{inputs.dtype}",
)
def test_real_numbers_are_taken_as_they_are(inputs):
    data = DataSet("x", "", Examples(inputs, _TARGETS), Examples(inputs, _TARGETS))
    prepared = prepare(data, "not_normal", 0.0).train.inputs
    assert torch.equal(prepared, _VALUES)
    assert not prepared.requires_grad
    torch.nn.functional.linear(prepared, torch.ones(1, 2, requires_grad=True)).sum().backward()  # they can be saved


def test_bytes_count_from_0_to_1():
    assert to_float32(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == [0.0, pytest.approx(0.2), 1.0]


@pytest.mark.filterwarnings("ignore:.*(Sparse|nested).*:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _VALUES.to(torch.complex64), "inputs of torch.complex64; expected real numbers"),
        (_VALUES.to_sparse, "inputs in a torch.sparse_coo tensor; expected a dense one: tensor.to_dense"),
        (_VALUES.to_sparse_csr, "inputs in a torch.sparse_csr tensor"),
        (lambda: torch.nested.nested_tensor(list(_VALUES)), "inputs in a nested tensor"),
        (lambda: _VALUES.to("meta"), "inputs in a meta tensor"),
    ],
    ids=["complex", "sparse", "csr", "nested", "meta"],
)
def test_invalid_input_is_refused(make, message):
    with pytest.raises(DataError, match=f"^the training part of x: got {message}"):
        Examples.of(make(), _TARGETS, "the training part of x")


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30], ids=str)
def test_values_of_any_size_are_normalised(scale):
    """Squares of 1e-30 and 1e30 are 0 and inf in float32."""
    inputs = torch.tensor([[-1.0], [1.0]]) * scale
    data = DataSet("x", "", Examples(inputs, torch.arange(2)), Examples(inputs, torch.arange(2)))
    torch.testing.assert_close(prepare(data, "normal", 0.0).train.inputs, torch.tensor([[-1.0], [1.0]]))
