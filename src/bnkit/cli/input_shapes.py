"""An example of a model's input made from a shape as typed on the command line: ``64x3x32x32``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import SettingsError
from bnkit.model.inspect.batches import device_of, dtype_of

_SHAPE = re.compile(r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?P<sizes>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?$", re.ASCII)
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "complex64", "int64", "int32", "uint8", "bool")
}
# 4 GiB of float32: more is probably a typing error.
_MOST_VALUES = 2**30
_MOST_SIZES = 16


def example_of(shapes: Sequence[str], model: nn.Module) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """Inputs for ``model``, always the same, on its device: positional ones, or keywords if the shapes have names.

    Args:
        shapes: Each as ``64x3x32x32``, with ``:int64`` or another dtype after it, and with ``name=`` before it for a keyword
            argument. Without a dtype, that of the model's first floating-point parameter.
        model: The model that the inputs are for.

    Returns:
        Floating-point inputs are standard normal, integers 0 or 1 (valid indices of every embedding table).

    Raises:
        SettingsError: If one of ``shapes`` cannot be parsed, or only some have names.

    Examples:
        >>> inputs = example_of(["2x3", "2x5:int64"], nn.Linear(3, 1))
        >>> [(tuple(tensor.shape), tensor.dtype) for tensor in inputs]
        [((2, 3), torch.float32), ((2, 5), torch.int64)]
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [_input(text, model, generator) for text in shapes]
    names = [name for name, _ in inputs if name]
    if not names:
        return tuple(tensor for _, tensor in inputs)
    if len(names) < len(inputs) or len(set(names)) < len(names):
        raise SettingsError(
            f"--input {' --input '.join(shapes)}: expected a different name for each input, or no names"
        )
    return dict(inputs)


def _input(text: str, model: nn.Module, generator: torch.Generator) -> tuple[str, Tensor]:
    match = _SHAPE.match(text)
    if match is None or (match["dtype"] or "float32") not in _DTYPES:
        raise SettingsError(
            f"--input {text}: expected a shape as 64x3x32x32, or 64x128:int64 with one of {', '.join(_DTYPES)}, or "
            "name=64x3x32x32 for a keyword argument"
        )
    # Python refuses to convert numbers with too many digits.
    sizes = [int(size[:20]) for size in match["sizes"].split("x")]
    if min(sizes) < 1 or math.prod(sizes) > _MOST_VALUES or len(sizes) > _MOST_SIZES:
        raise SettingsError(
            f"--input {text:.80}: expected at most {_MOST_SIZES} sizes from 1, and {_MOST_VALUES:,} values in all"
        )
    dtype = _DTYPES[match["dtype"]] if match["dtype"] else dtype_of(model)
    tensor: Any
    if dtype.is_floating_point or dtype.is_complex:
        tensor = torch.randn(sizes, generator=generator)
    else:
        tensor = torch.randint(2, sizes, generator=generator)
    return match["name"] or "", tensor.to(device_of(model), dtype)
