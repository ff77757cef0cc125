"""Read batch normalization from the autograd graph: PyTorch's nodes, and those of ``bnkit.kernels``."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from bnkit.memory import fused_recompute_formula
from bnkit.memory.recompute_formulas import BatchNormFormula, Leaf
from bnkit.memory.saved_storage import Formula
from bnkit.memory.saved_tensor import KeptTensor, SavedTensor

if TYPE_CHECKING:
    from bnkit.kernels.fused.autograd import ForwardConfig


class SavedTensorReader(Protocol):
    """Reads the tensors that nodes saved; see ``recompute_formula_from_graph.Graph``."""

    def read_attributes(self, node: Any, attributes: tuple[str, ...]) -> list[SavedTensor | KeptTensor | None]: ...

    def beta(self, key: int) -> tuple[bool, Tensor | None]: ...


_IN_TRAINING = ("_saved_input", "_saved_weight", "_saved_result1", "_saved_result2")
_IN_EVALUATION = ("_saved_input", "_saved_weight", "_saved_running_mean", "_saved_running_var")

# Whether the saved statistics reproduce the forward pass bit by bit, for each form of input.
_EXACT_WITH_SAVED_STATISTICS: dict[Hashable, bool] = {}
_MAX_SIGNATURES = 4096


def _native(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]


def _cudnn(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    output: Tensor = torch.ops.aten.cudnn_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]
    return output


def _miopen(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    output: Tensor = torch.ops.aten.miopen_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]
    return output


def _with_saved_statistics(x: Tensor, scale: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor:
    """One pass with PyTorch's evaluation function; ``scale`` includes the inverse deviation, the variance is 1."""
    return torch.native_batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]


def _with_running_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> Tensor:
    return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]


def _read(
    again: Callable[..., Tensor], eps_name: str, node: Any, nodes: SavedTensorReader, allow_fused: bool
) -> Formula | None:
    """The formula for the output of ``node``; ``again`` is the training function, which recomputes the statistics."""
    training, eps = node._saved_training, getattr(node, eps_name)
    attributes = nodes.read_attributes(node, _IN_TRAINING if training else _IN_EVALUATION)
    if not attributes:
        return None
    x, weight, mean, spread = attributes
    is_known, bias = _bias(node, weight, nodes)
    if not is_known or not isinstance(x, SavedTensor) or mean is None or spread is None:
        return None
    w, m, v = None if weight is None else weight.value(), mean.value(), spread.value()
    if allow_fused:
        formula = fused_recompute_formula.read(x, w, bias, m, v, eps, is_given=not training)
        if formula is not None:
            return formula
    # Copies of small tensors: the buffers change, and an optimizer may step before the backward pass.
    w, b = None if w is None else w.clone(), None if bias is None else bias.detach().clone()
    leaf = Leaf(x.new_use())
    kind = (type(node).__name__, training, eps, None if w is None else w.dtype, None if b is None else b.dtype)
    if training:
        function: Callable[[Tensor], Tensor] = partial(again, weight=w, bias=b, eps=eps)
        if leaf.device.type == "cpu":
            function = _faster(leaf, w, b, m, v, function, kind) or function
    else:
        function = partial(_with_running_statistics, weight=w, bias=b, mean=m.clone(), variance=v.clone(), eps=eps)
    return BatchNormFormula((leaf,), function, kind)


def _faster(
    x: Leaf,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    inverse_deviation: Tensor,
    again: Callable[[Tensor], Tensor],
    kind: Hashable,
) -> Callable[[Tensor], Tensor] | None:
    """The function that uses the saved statistics, if it gives the same bits; tried once for each form of input."""
    scale = inverse_deviation if weight is None else inverse_deviation * weight
    function = partial(_with_saved_statistics, scale=scale, bias=bias, mean=mean)
    signature = (kind, x.signature())
    if signature not in _EXACT_WITH_SAVED_STATISTICS:
        if len(_EXACT_WITH_SAVED_STATISTICS) >= _MAX_SIGNATURES:
            _EXACT_WITH_SAVED_STATISTICS.clear()
        values = x.saved.value()
        a, b = function(values), again(values)
        _EXACT_WITH_SAVED_STATISTICS[signature] = a.stride() == b.stride() and torch.equal(
            torch.nan_to_num(a), torch.nan_to_num(b)
        )
    return function if _EXACT_WITH_SAVED_STATISTICS[signature] else None


def _bias(node: Any, weight: SavedTensor | KeptTensor | None, nodes: SavedTensorReader) -> tuple[bool, Tensor | None]:
    """Whether beta is known, and beta. A node references it only if it is trained."""
    owner, _ = node.next_functions[2]
    if owner is not None:
        beta = getattr(owner, "variable", None)
        return beta is not None, beta
    if weight is None:
        return True, None
    return nodes.beta(weight.value().untyped_storage()._cdata)


def _read_function(node: Any, nodes: SavedTensorReader, _allow_fused: bool) -> Formula | None:
    """The output of ``kernels.fused.autograd.FusedBatchNormFunction``."""
    saved = nodes.read_attributes(node, ("saved_tensors",))
    if len(saved) != 5:
        return None
    return _formula(saved, node.config)


def _read_operation(node: Any, nodes: SavedTensorReader, _allow_fused: bool) -> Formula | None:
    """The output of ``kernels.fused.custom_op.batch_norm``."""
    from bnkit.kernels.fused.autograd import ForwardConfig

    saved = nodes.read_attributes(node, ("saved_tensors",))
    if len(saved) != 7:
        return None
    activation, eps, count, is_given, kernel = node.others
    mask, statistics = saved[5], saved[6]
    if statistics is None:
        return None
    kept_mask = None if mask is None else mask.value()
    float64_compute = node.float64_compute
    return _formula(
        saved,
        ForwardConfig(not is_given, eps, activation, kept_mask, count, statistics.value(), kernel, float64_compute),
    )


def _formula(saved: list[SavedTensor | KeptTensor | None], config: ForwardConfig) -> Formula | None:
    # Imported here, because it needs Numba or Triton; a node to read exists only if they are in use.
    from bnkit.kernels.fused.device_backend import backend_of

    x, weight, bias, residual = saved[:4]
    if not isinstance(x, SavedTensor) or not isinstance(residual, SavedTensor | None):
        return None
    w, b = (None if parameter is None else parameter.value().clone() for parameter in (weight, bias))
    known = config._replace(training=False)

    def again(x: Tensor, residual: Tensor | None = None) -> Tensor:
        args = known.args((x, w, b, residual))
        return backend_of(config.kernel).forward(args, config.statistics, config.float64_compute)

    activation, float64_compute = config.activation, config.float64_compute
    kind = ("bnkit", config.kernel, activation, config.eps, w is None, b is None, config.mask is None, float64_compute)
    return BatchNormFormula(tuple(Leaf(part.new_use()) for part in (x, residual) if part is not None), again, kind)


READERS: dict[str, Callable[[Any, SavedTensorReader, bool], Formula | None]] = {
    "NativeBatchNormBackward0": partial(_read, _native, "_saved_eps"),
    "CudnnBatchNormBackward0": partial(_read, _cudnn, "_saved_epsilon"),
    "MiopenBatchNormBackward0": partial(_read, _miopen, "_saved_epsilon"),
    "FusedBatchNormFunctionBackward": _read_function,
    "GeneratedBackwardFor_bnkit_batch_norm_defaultBackward": _read_operation,
}
