"""An example input of a model, and the outputs for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bnkit.errors import ModelError, SettingsError


class Example:
    """The input of a model: a tensor, a tuple (positional arguments) or a dictionary (keywords).

    Raises:
        SettingsError: It has another type.
    """

    def __init__(self, inputs: Any) -> None:
        if isinstance(inputs, Tensor):
            self.arguments, self.keywords = (inputs,), {}
        elif isinstance(inputs, tuple):
            self.arguments, self.keywords = inputs, {}
        elif isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
            self.arguments, self.keywords = (), dict(inputs)
        else:
            raise SettingsError(
                f"example_inputs is a {type(inputs).__name__}; expected a tensor, a tuple (positional arguments) or a "
                "dictionary (keywords)"
            )

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def fresh(self) -> Example:
        """A copy with cloned tensors: a model may change its input in place."""
        return self.map_tensors(lambda tensor: tensor.detach().clone())

    def run(self, model: nn.Module) -> Any:
        """The output of ``model`` for it; a model that works in place changes these tensors.

        Raises:
            ModelError: The model raises; the message names the shapes of the example.
        """
        try:
            return model(*self.arguments, **self.keywords)
        except Exception as error:
            shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for _, tensor in tensors_in(self))
            raise ModelError(
                f"{type(model).__name__} raised {type(error).__name__} on the example ({shapes or 'no tensors'}): "
                f"{' '.join(str(error).split())[:300]}; expected an example that the model can be called with"
            ) from error

    def to(self, dtype: torch.dtype) -> Example:
        """The same example with its floating tensors converted to ``dtype``."""
        return self.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Example:
        changed = Example(())
        changed.arguments, changed.keywords = tree_map_only(Tensor, change, (self.arguments, self.keywords))
        return changed


def tensors_in(value: Any, path: str = "", within: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """The tensors in tuples, lists, mappings, dataclasses, other objects and an ``Example``, each with its path.

    PyTorch's pytrees and optree do not look into dataclasses, other objects and subclasses of list and dict, which some models
    return.

    Examples:
        >>> [path for path, _ in tensors_in({"a": (torch.ones(1), [torch.ones(1)])})]
        ['a.0', 'a.1.0']
    """
    entries: list[tuple[object, Any]] = []
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, (tuple, list)):
        entries = list(enumerate(value))
    elif isinstance(value, Example):
        entries = [*enumerate(value.arguments), *value.keywords.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        entries = list(vars(value).items())
    if id(value) in within:  # it contains itself
        return
    for key, entry in entries:
        yield from tensors_in(entry, f"{path}.{key}" if path else str(key), (*within, id(value)))


def holds_numbers(value: Any) -> bool:
    """Whether ``value`` contains a finite floating-point number, so that it can be compared."""
    tensors = (tensor for _, tensor in tensors_in(value))
    return any(
        bool(tensor.detach().isfinite().any())
        for tensor in tensors
        if tensor.is_floating_point() or tensor.is_complex()
    )


def largest_difference(before: Any, after: Any) -> float:
    """The largest difference between the floating tensors of two outputs, over the largest magnitude of ``before``.

    NaN and inf are equal if both outputs have them in the same place. Otherwise, and if the structures differ, the
    difference is infinite.
    """
    first, second = list(tensors_in(before)), list(tensors_in(after))
    if [(path, tensor.shape) for path, tensor in first] != [(path, tensor.shape) for path, tensor in second]:
        return float("inf")
    difference = magnitude = 0.0
    for (_, one), (_, other) in zip(first, second, strict=True):
        if not one.is_floating_point() and not one.is_complex():
            continue
        a, b = _real(one), _real(other)
        finite = a.isfinite()
        if not torch.equal(a[~finite].nan_to_num(nan=1.0), b[~finite].nan_to_num(nan=1.0)):
            return float("inf")
        if finite.any():
            distance = (a - b)[finite].abs().max().item()
            if distance != distance:  # noqa: PLR0124 - NaN
                return float("inf")
            difference, magnitude = max(difference, distance), max(magnitude, a[finite].abs().max().item())
    return difference / magnitude if magnitude > 0 else difference


def _real(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()
