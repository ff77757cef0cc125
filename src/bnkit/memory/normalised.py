"""PyTorch's batch normalization, read out of the graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bnkit.memory.recipe import Leaf, Normalised, Recipe
from bnkit.memory.saved import Saved

Look = Callable[[Any, str], list[Saved | None]]
Betas = dict[int, Tensor | None]

# For which forms of input the statistics that the node kept give the same bits as the forward pass, which took them.
_SAME_BY_KEPT: dict[Hashable, bool] = {}
_MOST_FORMS = 4096


def _native(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]


def _cudnn(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    found: Tensor = torch.ops.aten.cudnn_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]
    return found


def _miopen(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    found: Tensor = torch.ops.aten.miopen_batch_norm(x, weight, bias, None, None, True, 0.0, eps)[0]
    return found


def _by_kept(x: Tensor, scale: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor:
    """One pass: PyTorch's function for evaluation, with 1 / sqrt(1 + 0) times a scale that holds the inverse deviation."""
    return torch.native_batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]


def _read(again: Callable[..., Tensor], eps_name: str, node: Any, look: Look, betas: Betas) -> Recipe | None:
    """What computes the output of ``node``; ``again`` does so in training, taking the statistics of its input anew."""
    found = {name: look(node, f"_saved_{name}") for name in ("input", "weight", "running_mean", "running_var")}
    if not all(found.values()):
        return None
    x, weight, mean, variance = (saved[0] for saved in found.values())
    is_known, bias = _bias(node, weight, betas)
    if x is None or not is_known:
        return None
    # Copies, of a value for each channel: the buffers move, and an optimizer may step before the backward pass.
    w, b = _copy(weight), None if bias is None else bias.detach().clone()
    training, eps = node._saved_training, getattr(node, eps_name)
    leaf = Leaf(x.for_another())
    kind = (type(node).__name__, training, eps, None if w is None else w.dtype, None if b is None else b.dtype)
    if training:
        function = partial(again, weight=w, bias=b, eps=eps)
        if leaf.device.type == "cpu":
            function = _faster(node, look, leaf, w, b, function, kind) or function
    else:
        m, v = _copy(mean), _copy(variance)

        def function(x: Tensor) -> Tensor:
            return torch.native_batch_norm(x, w, b, m, v, False, 0.0, eps)[0]

    return Normalised(leaf, function, kind)


def _faster(
    node: Any, look: Look, x: Leaf, weight: Tensor | None, bias: Tensor | None, again: Callable[[Tensor], Tensor], kind: Any
) -> Callable[[Tensor], Tensor] | None:
    """What computes the output without taking statistics anew, if that gives the same bits; tried once for each form."""
    mean, inverse = look(node, "_saved_result1"), look(node, "_saved_result2")
    if not (mean and inverse and mean[0] and inverse[0]):
        return None
    m, inverse_deviation = mean[0].value(), inverse[0].value()
    scale = inverse_deviation if weight is None else inverse_deviation * weight
    function = partial(_by_kept, scale=scale, bias=bias, mean=m)
    form = (kind, x.form())
    if form not in _SAME_BY_KEPT:
        if len(_SAME_BY_KEPT) >= _MOST_FORMS:
            _SAME_BY_KEPT.clear()
        values = x.saved.value()
        a, b = function(values), again(values)
        _SAME_BY_KEPT[form] = a.stride() == b.stride() and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    return function if _SAME_BY_KEPT[form] else None


def _bias(node: Any, weight: Saved | None, betas: Betas) -> tuple[bool, Tensor | None]:
    """Whether it is known what beta was; and what. A node keeps it only where it is trained."""
    owner, _ = node.next_functions[2]
    if owner is not None:
        beta = getattr(owner, "variable", None)
        return beta is not None, beta
    if weight is None:
        return True, None
    key = weight.content.key
    return key in betas, betas.get(key)


def _copy(saved: Saved | None) -> Tensor | None:
    return None if saved is None else saved.value().clone()


READERS: dict[str, Callable[[Any, Look, Betas], Recipe | None]] = {
    "NativeBatchNormBackward0": partial(_read, _native, "_saved_eps"),
    "CudnnBatchNormBackward0": partial(_read, _cudnn, "_saved_epsilon"),
    "MiopenBatchNormBackward0": partial(_read, _miopen, "_saved_epsilon"),
}
