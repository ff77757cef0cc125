"""The compiled loops of ``bnkit.kernels``, Numba's and Triton's, read out of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from bnkit.memory.batch_norm_nodes import SavedTensorReader
from bnkit.memory.recipes import BatchNormRecipe, Leaf
from bnkit.memory.saved_tensor import KeptTensor, SavedTensor
from bnkit.memory.storage import Recipe


def _read_function(node: Any, nodes: SavedTensorReader, _allow_fused: bool) -> Recipe | None:
    """The output of ``fused.autograd.Normalise``."""
    saved = nodes.read_attributes(node, ("saved_tensors",))
    if len(saved) != 5:
        return None
    config = node.config
    float64_compute, kernel = config.float64_compute, config.kernel
    return _recipe(
        saved, config.mask, node.statistics, config.activation, config.eps, config.values, float64_compute, kernel
    )


def _read_operation(node: Any, nodes: SavedTensorReader, _allow_fused: bool) -> Recipe | None:
    """The output of ``custom_op.batch_norm``."""
    saved = nodes.read_attributes(node, ("saved_tensors",))
    if len(saved) != 7:
        return None
    activation, eps, count, _given, kernel = node.others
    mask, statistics = saved[5], saved[6]
    if statistics is None:
        return None
    kept_mask = None if mask is None else mask.value()
    return _recipe(saved, kept_mask, statistics.value(), activation, eps, count, node.float64_compute, kernel)


def _recipe(
    saved: list[SavedTensor | KeptTensor | None],
    mask: Tensor | None, statistics: Tensor, activation: str | None, eps: float, count: int,
    float64_compute: bool, kernel: str,
) -> Recipe | None:  # fmt: skip
    # In use already, or there would be no node to read; neither Numba nor Triton is imported for those who have none.
    from bnkit.kernels.fused.backend import backend_of

    x, weight, bias, residual = saved[:4]
    if not isinstance(x, SavedTensor) or not isinstance(residual, SavedTensor | None):
        return None
    w, b = (None if parameter is None else parameter.value().clone() for parameter in (weight, bias))

    def again(x: Tensor, residual: Tensor | None = None) -> Tensor:
        passes = backend_of(kernel)
        return passes.forward(x, w, b, residual, mask, count, statistics, activation, eps, True, float64_compute)

    kind = ("bnkit", kernel, activation, eps, w is None, b is None, mask is None, float64_compute)
    return BatchNormRecipe(tuple(Leaf(part.new_use()) for part in (x, residual) if part is not None), again, kind)


READERS: dict[str, Callable[[Any, SavedTensorReader, bool], Recipe | None]] = {
    "FusedBatchNormFunctionBackward": _read_function,
    "GeneratedBackwardFor_bnkit_batch_norm_defaultBackward": _read_operation,
}
