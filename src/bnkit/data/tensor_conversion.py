"""Convert tensors to a dtype and layout that networks can be given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bnkit.errors import DataError

# PyTorch supports few operations on these.
_WIDENED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


@contextmanager
def prefix_errors(name: str) -> Iterator[None]:
    """Prefix a ``DataError`` raised inside with ``name``."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def to_strided(tensor: Tensor, what: str) -> Tensor:
    """``tensor`` detached, in a dtype and layout that PyTorch computes with.

    Args:
        tensor: Any tensor.
        what: "inputs" or "targets", for messages.

    Raises:
        DataError: If it is complex, sparse, quantized, nested or a meta tensor.
    """
    if tensor.is_complex():
        expected = "class numbers or floating ones" if what == "targets" else "real numbers"
        raise DataError(f"got {what} of {tensor.dtype}; expected {expected}: torch.view_as_real gives both parts")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = next(
            (name for name in ("nested", "quantized", "meta") if getattr(tensor, f"is_{name}")), str(tensor.layout)
        )
        raise DataError(
            f"got {what} in a {kind} tensor; expected a dense one: tensor.to_dense() or tensor.dequantize() makes it"
        )
    tensor = tensor.detach().resolve_neg()
    if tensor.is_inference():
        tensor = tensor.clone()  # autograd cannot save inference tensors
    if tensor.is_floating_point() and tensor.itemsize == 1:
        return tensor.float()
    return tensor.to(_WIDENED.get(tensor.dtype, tensor.dtype))


def to_float32(inputs: Tensor) -> Tensor:
    """``inputs`` as float32: bytes scaled to 0 to 1, other dtypes unscaled."""
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of ``tensor`` as bytes in row-major order, for any device and strides."""
    return tensor.detach().resolve_neg().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
