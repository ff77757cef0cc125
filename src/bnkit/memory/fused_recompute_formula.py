"""A formula for PyTorch's batch normalization with a following sum and ReLU, by one bit-identical compiled loop."""

from __future__ import annotations

import importlib
from collections.abc import Hashable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnkit.kernels.compilation.compile_policy import why_not_ready
from bnkit.kernels.compilation.compile_request import CompileRequest
from bnkit.memory.recompute_formulas import Leaf
from bnkit.memory.saved_storage import Formula
from bnkit.memory.saved_tensor import SavedTensor

_PLAIN = frozenset({Tensor, nn.Parameter})


class FusedFormula(NamedTuple):
    """The result of PyTorch's CPU kernels for float32: ``relu(x * alpha + beta + residual)``.

    Attributes:
        of: The input, and the residual or the tensor that is normalised to give the residual.
        coefficients: alpha and beta, (2, C), for each normalised tensor.
        relu: Whether a ReLU follows.
    """

    of: tuple[Leaf, ...]
    coefficients: tuple[Tensor, ...]
    relu: bool = False

    @property
    def has_batch_norm(self) -> bool:
        return True

    @property
    def depth(self) -> int:
        return max(leaf.depth for leaf in self.of)

    @property
    def device(self) -> torch.device:
        return self.coefficients[0].device

    def compute(self) -> tuple[Tensor, bool]:
        of, coefficients = self.of, self.coefficients
        residual = of[1].saved.value() if len(of) == 2 else None
        of_residual = coefficients[1] if len(coefficients) == 2 else None
        return _aten_affine().affine(of[0].saved.value(), coefficients[0], residual, of_residual, self.relu), True

    def signature(self) -> Hashable:
        x = self.of[0].saved  # all have its layout
        return "affine", x.shape, x.stride, len(self.of), len(self.coefficients), self.relu


def read(
    x: SavedTensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    eps: float,
    *,
    is_given: bool,
) -> FusedFormula | None:
    """The formula for the output of batch normalization of ``x``; None if the loop does not support it.

    See ``kernels.affine.coefficients`` for the other arguments.
    """
    leaf = Leaf(x.new_use())
    if not _is_supported(leaf) or not (_is_plain(weight) and _is_plain(bias) and _is_plain(mean) and _is_plain(spread)):
        return None
    if why_not_ready(CompileRequest("recompute", tuple(x.shape), "float32")):
        return None
    loops = _aten_affine()
    if not loops.is_possible() or loops.affine_layout(x.shape, x.stride) is None:
        return None
    return FusedFormula((leaf,), (loops.coefficients(mean, spread, weight, bias, eps, is_given),))


def with_relu(of: Formula) -> FusedFormula | None:
    """The formula with a ReLU after it; None if it is not one loop."""
    return FusedFormula(of.of, of.coefficients, True) if isinstance(of, FusedFormula) and not of.relu else None


def add(a: Formula, b: Formula) -> FusedFormula | None:
    """The formula for the sum of both; None if it is not one loop."""
    first, second = _term(a), _term(b)
    if first is None or second is None:
        return None
    (x, of_x), (residual, of_residual) = (first, second) if first[1] else (second, first)
    lies_alike = residual.saved.shape == x.saved.shape and residual.saved.stride == x.saved.stride
    if not of_x or not lies_alike or not _is_supported(residual):
        return None
    return FusedFormula((x, residual), (*of_x, *of_residual))


def _term(formula: Formula) -> tuple[Leaf, tuple[Tensor, ...]] | None:
    """The input of a term of a sum, and its coefficients if it is normalised; None if the loop does not support it."""
    if isinstance(formula, Leaf):
        return formula, ()
    if isinstance(formula, FusedFormula) and len(formula.of) == 1 and not formula.relu:
        return formula.of[0], formula.coefficients
    return None


def _is_supported(leaf: Leaf) -> bool:
    return leaf.saved.storage.dtype == torch.float32 and leaf.device.type == "cpu"


def _is_plain(parameter: Tensor | None) -> bool:
    """Whether ``parameter`` is None, or the loop can read it; its device is that of the input."""
    if parameter is None:
        return True
    return type(parameter) in _PLAIN and parameter.dtype == torch.float32 and parameter.is_contiguous()


@cache
def _aten_affine() -> Any:
    """The compiled loops, imported on first use because they import Numba."""
    return importlib.import_module("bnkit.kernels.cpu.aten_affine")
