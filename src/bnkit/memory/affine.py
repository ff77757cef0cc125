"""PyTorch's batch normalization, a sum and ReLU behind it as one recipe, where one compiled loop gives their bits."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnkit.memory.recipe import Leaf, Recipe
from bnkit.memory.saved import Saved


class Affine(NamedTuple):
    """What PyTorch's kernels for the CPU made of float32: ``relu(x * alpha + beta + residual)``.

    Attributes:
        of: The input; and the residual, or what was normalised to be the residual.
        coefficients: alpha and beta, (2, C), of those that are normalised.
        relu: Whether ReLU follows.
    """

    of: tuple[Leaf, ...]
    coefficients: tuple[Tensor, ...]
    relu: bool = False

    @property
    def norms(self) -> bool:
        return True

    @property
    def links(self) -> int:
        return max(leaf.links for leaf in self.of)

    @property
    def device(self) -> torch.device:
        return self.coefficients[0].device

    def compute(self) -> tuple[Tensor, bool]:
        from bnkit.kernels.affine import affine

        x, *residual = (leaf.saved.value() for leaf in self.of)
        of_x, *of_residual = self.coefficients
        return affine(
            x, of_x, residual[0] if residual else None, of_residual[0] if of_residual else None, self.relu
        ), True

    def form(self) -> Hashable:
        x = self.of[0].saved  # all lie as it does
        return "affine", x.shape, x.stride, len(self.of), len(self.coefficients), self.relu


def read(
    x: Saved,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    eps: float,
    *,
    is_given: bool,
) -> Affine | None:
    """What computes the output of batch normalization of ``x``; None where the loop cannot.

    For what the others are see ``kernels.affine.coefficients``.
    """
    leaf = Leaf(x.for_another())
    if not _is_taken(leaf) or not all(p is None or _is_plain(p) for p in (weight, bias, mean, spread)):
        return None
    # Only here, so that Numba is not imported where there is nothing for it.
    from bnkit.kernels.affine import coefficients, is_possible, way

    if not is_possible() or way(x.shape, x.stride) is None:
        return None
    return Affine((leaf,), (coefficients(mean, spread, weight, bias, eps, is_given),))


def bent(of: Recipe) -> Affine | None:
    """ReLU of that, where it is one loop."""
    return of._replace(relu=True) if isinstance(of, Affine) and not of.relu else None


def summed(a: Recipe, b: Recipe) -> Affine | None:
    """The sum of both, where it is one loop."""
    first, second = _term(a), _term(b)
    if first is None or second is None:
        return None
    (x, of_x), (residual, of_residual) = (first, second) if first[1] else (second, first)
    lies_alike = residual.saved.shape == x.saved.shape and residual.saved.stride == x.saved.stride
    if not of_x or not lies_alike or not _is_taken(residual):
        return None
    return Affine((x, residual), (*of_x, *of_residual))


def _term(recipe: Recipe) -> tuple[Leaf, tuple[Tensor, ...]] | None:
    """What a sum can be made of, and the coefficients of what is normalised."""
    if isinstance(recipe, Leaf):
        return recipe, ()
    if isinstance(recipe, Affine) and len(recipe.of) == 1 and not recipe.relu:
        return recipe.of[0], recipe.coefficients
    return None


def _is_taken(leaf: Leaf) -> bool:
    return leaf.saved.content.dtype == torch.float32 and leaf.device.type == "cpu"


def _is_plain(parameter: Tensor) -> bool:
    return (
        type(parameter) in (Tensor, nn.Parameter)
        and parameter.dtype == torch.float32
        and parameter.is_contiguous()
        and parameter.device.type == "cpu"
    )
