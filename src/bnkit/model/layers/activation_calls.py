"""PyTorch's functions that compute a supported activation or a sum, and those that only read the shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bnkit.kernels.activation import LEAKY_SLOPE


def activation_in(func: Callable[..., Any], extra: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, bool]:
    """The name of the activation that a call computes, None if its arguments differ; and whether it works in place."""
    name, in_place, arguments = ACTIVATIONS[func]
    options = {**dict(zip(arguments, extra, strict=False)), **kwargs}
    in_place = bool(options.pop("inplace", in_place))
    is_usual = len(extra) <= len(arguments) and all(_USUAL.get(key) == value for key, value in options.items())
    if func is functional.hardtanh:  # supported only with the limits of ReLU6
        is_usual = is_usual and len(options) == 2
    return name if is_usual else None, in_place


# The arguments with which an activation equals the supported one.
_USUAL = {"negative_slope": LEAKY_SLOPE, "approximate": "none", "min_val": 0.0, "max_val": 6.0}
# By function: the name, whether it works in place, and its further arguments.
ACTIVATIONS: dict[Any, tuple[str, bool, tuple[str, ...]]] = {
    functional.relu: ("relu", False, ("inplace",)),
    functional.leaky_relu: ("leaky_relu", False, ("negative_slope", "inplace")),
    functional.hardtanh: ("relu6", False, ("min_val", "max_val", "inplace")),
    functional.relu6: ("relu6", False, ("inplace",)),
    functional.silu: ("silu", False, ("inplace",)),
    functional.gelu: ("gelu", False, ()),
    functional.leaky_relu_: ("leaky_relu", True, ("negative_slope",)),
    **{
        function: (name, name_in_torch.endswith("_"), ())
        for name in ("relu", "sigmoid", "tanh")
        for name_in_torch in (name, f"{name}_")
        for home in (torch, Tensor)
        for function in [getattr(home, name_in_torch)]
    },
}
# By function: whether it works in place.
SUMS: dict[Any, bool] = {torch.add: False, Tensor.add: False, Tensor.add_: True, Tensor.__add__: False}
ABOUT_SHAPE = frozenset(
    {
        Tensor.shape.__get__,  # type: ignore[attr-defined]
        Tensor.dtype.__get__,  # type: ignore[attr-defined]
        Tensor.device.__get__,
        Tensor.ndim.__get__,  # type: ignore[attr-defined]
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
    }
)
