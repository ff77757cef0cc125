"""Detect inputs that networks use as indices (tokens, categories), which must stay integers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnkit.data import DataSet
from bnkit.data.tensor_conversion import to_float32
from bnkit.experiments.networks import NetworkSource
from bnkit.experiments.run_settings import Settings
from bnkit.model.inspect.dispatch_mode import DispatchMode
from bnkit.seeding import seeded

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# Operations that take indices, by their names in ATen.
_LOOKUPS = (
    "embedding",
    "_embedding_bag",
    "_embedding_bag_forward_only",
    "index",
    "index_select",
    "gather",
    "scatter_",
    "scatter",
)


def example_of(data: DataSet, *, indices: bool) -> Tensor:
    """The first two training inputs as networks get them, on the CPU, but not normalised."""
    raw = _raw(data)
    return raw.long() if indices else to_float32(raw)


def are_indices(source: NetworkSource, data: DataSet, settings: Settings, seed: int) -> bool:
    """Whether the network of ``source`` uses the inputs of ``data`` as indices.

    Integers that a network only computes with are converted to float32, as images are.
    """
    raw = _raw(data)
    if raw.dtype not in _INTEGERS:
        return False
    with seeded(seed, "indices"):
        try:
            model = source.build(data.input_shape, data.out_features, settings, seed, raw.long())
            # With two different inputs: positions are looked up too, but are the same for both.
            first, other = (_looked_up_by(model, inputs) for inputs in (raw.long(), torch.zeros_like(raw).long()))
        except (Exception, SystemExit):
            return False
        is_input = len(first) != len(other) or any(
            not torch.equal(one, two) for one, two in zip(first, other, strict=True)
        )
        return is_input or not _runs(source, data, settings, seed)


def _looked_up_by(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    with _Lookups() as lookups, torch.no_grad():
        model.eval()(inputs)
    return list(lookups.tensors)


def _runs(source: NetworkSource, data: DataSet, settings: Settings, seed: int) -> bool:
    """Whether the network runs on the same inputs in float32."""
    example = example_of(data, indices=False)
    try:
        model = source.build(data.input_shape, data.out_features, settings, seed, example)
        with torch.no_grad():
            model.eval()(example)
    except (Exception, SystemExit):
        return False
    return True


def _raw(data: DataSet) -> Tensor:
    with seeded(0, "example"):
        return data.train.raw_head(2).cpu()


class _Lookups(DispatchMode):
    """Collects the index tensors of lookups during a forward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []

    def run_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func._schema.name.removeprefix("aten::") in _LOOKUPS:
            tensors = (leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            self.tensors += [tensor.clone() for tensor in tensors if tensor.dtype in _INTEGERS]
        return func(*args, **kwargs)
