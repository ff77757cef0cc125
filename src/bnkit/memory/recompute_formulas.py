"""Formulas to recompute outputs of batch normalization from saved tensors, by the functions of the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnkit.memory.saved_storage import Formula
from bnkit.memory.saved_tensor import SavedTensor


class Leaf(NamedTuple):
    """A saved tensor, which is kept or itself recomputed."""

    saved: SavedTensor

    @property
    def has_batch_norm(self) -> bool:
        return self.saved.storage.formula is not None and self.saved.storage.formula.has_batch_norm

    @property
    def depth(self) -> int:
        formula = self.saved.storage.formula
        return 0 if formula is None else formula.depth + 1

    @property
    def device(self) -> torch.device:
        storage = self.saved.storage
        return storage.formula.device if storage.tensor is None else storage.tensor.device  # type: ignore[union-attr]

    def compute(self) -> tuple[Tensor, bool]:
        return self.saved.value(), False

    def signature(self) -> Hashable:
        return "leaf", self.saved.shape, self.saved.stride, self.saved.storage.dtype, self.device


class BatchNormFormula(NamedTuple):
    """An output of batch normalization.

    Attributes:
        of: The input, and the residual if the function adds it.
        function: The function of these.
        kind: Identifies ``function`` except for its values.
    """

    of: tuple[Leaf, ...]
    function: Callable[..., Tensor]
    kind: Hashable

    @property
    def has_batch_norm(self) -> bool:
        return True

    @property
    def depth(self) -> int:
        return max(leaf.depth for leaf in self.of)

    @property
    def device(self) -> torch.device:
        return self.of[0].device

    def compute(self) -> tuple[Tensor, bool]:
        return self.function(*(leaf.saved.value() for leaf in self.of)), True

    def signature(self) -> Hashable:
        return self.kind, tuple(leaf.signature() for leaf in self.of)


class ActivationFormula(NamedTuple):
    """An element-wise function of another formula's tensor.

    Attributes:
        of: The other formula.
        function: Called with the tensor, and whether it may be overwritten.
        kind: Identifies ``function``.
    """

    of: Formula
    function: Callable[[Tensor, bool], Tensor]
    kind: Hashable

    @property
    def has_batch_norm(self) -> bool:
        return self.of.has_batch_norm

    @property
    def depth(self) -> int:
        return self.of.depth

    @property
    def device(self) -> torch.device:
        return self.of.device

    def compute(self) -> tuple[Tensor, bool]:
        return self.function(*self.of.compute()), True

    def signature(self) -> Hashable:
        return self.kind, self.of.signature()


class CombinedFormula(NamedTuple):
    """A function of the tensors of several formulas: their sum or concatenation.

    Attributes:
        of: The other formulas.
        function: Called with their results.
        kind: Identifies ``function``.
    """

    of: tuple[Formula, ...]
    function: Callable[[list[tuple[Tensor, bool]]], Tensor]
    kind: Hashable

    @property
    def has_batch_norm(self) -> bool:
        return any(formula.has_batch_norm for formula in self.of)

    @property
    def depth(self) -> int:
        return max(formula.depth for formula in self.of)

    @property
    def device(self) -> torch.device:
        return self.of[0].device

    def compute(self) -> tuple[Tensor, bool]:
        return self.function([formula.compute() for formula in self.of]), True

    def signature(self) -> Hashable:
        return self.kind, tuple(formula.signature() for formula in self.of)


class CastFormula(NamedTuple):
    """Integers that were stored in a smaller dtype, without a change of value."""

    narrow: Tensor
    dtype: torch.dtype

    @property
    def has_batch_norm(self) -> bool:
        return False

    @property
    def depth(self) -> int:
        return 0

    @property
    def device(self) -> torch.device:
        return self.narrow.device

    def compute(self) -> tuple[Tensor, bool]:
        return self.narrow.to(self.dtype), True

    def signature(self) -> Hashable:
        return "widened", self.narrow.dtype, self.dtype, self.narrow.shape, self.narrow.stride()


def add(parts: list[tuple[Tensor, bool]]) -> Tensor:
    """The sum of two tensors, computed in place if one may be overwritten."""
    (a, own_a), (b, own_b) = parts
    if own_a and _holds(a, b):
        return a.add_(b)
    if own_b and _holds(b, a):
        return b.add_(a)
    return torch.add(a, b)


def _holds(a: Tensor, b: Tensor) -> bool:
    """Whether the sum of both has the layout of ``a``."""
    return a.shape == b.shape and a.stride() == b.stride() and torch.result_type(a, b) == a.dtype == b.dtype


def cat(dimension: int) -> Callable[[list[tuple[Tensor, bool]]], Tensor]:
    """A function that concatenates tensors along ``dimension``."""

    def function(parts: list[tuple[Tensor, bool]]) -> Tensor:
        return torch.cat([tensor for tensor, _ in parts], dimension)

    return function


def to_dtype(dtype: torch.dtype) -> Callable[[Tensor, bool], Tensor]:
    """A function that copies a tensor to ``dtype``."""

    def function(tensor: Tensor, own: bool) -> Tensor:
        return tensor if own and tensor.dtype == dtype else tensor.to(dtype, copy=True)

    return function


def activation(plain: Callable[..., Tensor], in_place: Callable[..., Tensor] | None, arguments: tuple[Any, ...]) -> Any:
    """A function that applies an activation, in place if allowed."""

    def function(tensor: Tensor, own: bool) -> Tensor:
        return in_place(tensor, *arguments) if own and in_place is not None else plain(tensor, *arguments)

    return function
