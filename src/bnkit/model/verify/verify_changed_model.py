"""Verify a changed model: it runs on the example, and its outputs stay the same if they should."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import nn

from bnkit.errors import ModelError
from bnkit.model.edit.deepcopy_model import deepcopy_model
from bnkit.model.inspect.example import Example, holds_numbers, largest_difference, tensors_in
from bnkit.model.preserve_state import preserve_model

# The allowed change of the outputs, as a multiple of the model's own rounding error.
_OF_ITS_OWN = 16


def output_of(model: nn.Module, example: Example, done: str) -> Any:
    """The output of the changed ``model`` on ``example`` in evaluation mode; ``model`` is not modified.

    Args:
        done: The change, as a phrase after the model's name: "with its batch norm removed".

    Raises:
        ModelError: The model raises.
    """
    with preserve_model(model), torch.no_grad():
        try:
            return example.fresh().run(model.eval())
        except ModelError as error:
            cause = error.__cause__ or error
            raise ModelError(
                f"{type(model).__name__} {done} does not run any more on the example ({type(cause).__name__}: {cause}); leave "
                "the place out with `exclude`"
            ) from cause


def check_comparable(output: Any, model: nn.Module) -> None:
    """Refuse an example with outputs that cannot be compared.

    Raises:
        ModelError: The output has floating-point tensors without any finite number.
    """
    if any(tensor.is_meta for _, tensor in tensors_in(output)):
        raise ModelError(f"{type(model).__name__} is on the meta device, without values to compare; move it to another")
    tensors = [tensor for _, tensor in tensors_in(output) if tensor.is_floating_point() or tensor.is_complex()]
    if tensors and not holds_numbers(output):
        what = "holds no values" if all(tensor.numel() == 0 for tensor in tensors) else "is NaN or inf throughout"
        raise ModelError(
            f"{type(model).__name__} returns an output on the example that {what}, so that nothing can be compared; expected an "
            "example with finite outputs"
        )


def error_of(before: Any, after: Any, model: nn.Module, done: str, exact: Callable[[], Any]) -> float | None:
    """The difference of ``after``, the output of ``model``, from ``before``; None without floating-point numbers.

    After some hundred layers, rounding may leave half of the digits correct, so the tolerance is the square root of the
    machine epsilon of the coarsest dtype. A network that amplifies rounding is allowed a multiple of its own error.

    Args:
        done: The change, as a phrase after the model's name.
        exact: Returns ``before`` without rounding errors, or None if that is unknown.

    Raises:
        ModelError: The difference is larger than rounding explains.
    """
    error = largest_difference(before, after)
    if not error <= tolerance(model) and not error <= _OF_ITS_OWN * _own_error(exact(), before):
        raise ModelError(
            f"{type(model).__name__} computes something else {done}: the outputs differ by {error:.1e} of their largest "
            "magnitude; expected the same: leave places out with `exclude`"
        )
    return error if holds_numbers(before) else None


def exact_output(model: nn.Module, example: Example) -> Any:
    """The output of a float64 copy of ``model`` on ``example``; None if it does not run in float64."""
    wide = deepcopy_model(model).double().eval()
    with preserve_model(wide), torch.no_grad():
        try:
            return example.to(torch.float64).fresh().run(wide)
        except ModelError:
            return None


def _own_error(exact: Any, output: Any) -> float:
    error = 0.0 if exact is None else largest_difference(exact, output)
    return error if error < 1 else 0.0  # a larger error is not caused by rounding


def tolerance(model: nn.Module) -> float:
    """The largest difference of two outputs of ``model``, relative to their magnitude, that rounding explains."""
    dtypes = {tensor.dtype for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point()}
    devices = {tensor.device.type for tensor in chain(model.parameters(), model.buffers())} or {"cpu"}
    devices = {device for device in devices if torch.amp.is_autocast_available(device)}
    dtypes |= {torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device)}
    return float(max((torch.finfo(dtype).eps for dtype in dtypes), default=torch.finfo(torch.float32).eps) ** 0.5)
