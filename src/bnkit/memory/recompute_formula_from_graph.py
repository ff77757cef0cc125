"""Find the formula for a tensor in the autograd graph: the node that computed it, and the inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from bnkit.memory import batch_norm_nodes, fused_recompute_formula
from bnkit.memory.activation_nodes import ACTIVATIONS
from bnkit.memory.recompute_formulas import (
    ActivationFormula,
    CastFormula,
    CombinedFormula,
    Leaf,
    activation,
    add,
    cat,
    to_dtype,
)
from bnkit.memory.saved_storage import Formula, SavedStorage
from bnkit.memory.saved_tensor import KeptTensor, SavedTensor

# Nodes of functions that return a view of their input.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in (
        "View", "UnsafeView", "ReshapeAlias", "Alias", "Expand", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze",
        "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Narrow", "AsStrided",
    )
) | {"SqueezeBackward1", "TransposeBackward1", "MovedimBackward0", "UnflattenBackward0"}  # fmt: skip
_POOLS = frozenset(
    f"{name}Backward0"
    for name in ("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D")
)


class Graph:
    """Reads the nodes that were created while one context was open in one thread.

    It only reads nodes whose tensors this context saved: reading others would call hooks of other code, such as those
    of activation checkpointing, which would repeat a part of the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own: set[int] = set()
        self._named: dict[tuple[int, int], Any] = {}
        # The tensors unpacked while the graph is being read; None at other times.
        self.unpacked: list[SavedTensor | KeptTensor] | None = None
        self._nothing = torch.empty(0)
        self._wanted: SavedStorage | None = None
        self._allow_fused = True
        self._model = model

    @cached_property
    def _betas(self) -> dict[int, Tensor | None]:
        """Beta by the storage of gamma: PyTorch's node saves only gamma, because gradients do not depend on beta."""
        biases: dict[int, Tensor | None] = {}
        for module in self._model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                biases[module.weight.untyped_storage()._cdata] = module.bias
        return biases

    def beta(self, key: int) -> tuple[bool, Tensor | None]:
        """Whether the beta for the gamma with the storage ``key`` is known, and this beta."""
        return key in self._betas, self._betas.get(key)

    def note(self, number: int) -> None:
        """Record that the node with this number saves its tensors in this context."""
        self._own.add(number)

    def name(self, node: Any, number: int, saved: SavedTensor) -> int:
        """Record that the output ``number`` of ``node`` is ``saved``; returns the number of the node."""
        own: int = node._sequence_nr()
        self._named[own, number] = ref(saved)
        kind = type(node).__name__
        if kind == "CloneBackward0":  # some in-place activations save a copy of their argument
            source, of_source = node.next_functions[0]
            if source is not None:
                self._named.setdefault((source._sequence_nr(), of_source), ref(saved))
        return own

    def close(self) -> None:
        """Forget all nodes."""
        self._own.clear()
        self._named.clear()
        self._wanted = None

    def record_unpacked(self, saved: SavedTensor | KeptTensor) -> Tensor:
        """Called for a tensor that is unpacked while the graph is being read; returns the tensor to pass on."""
        assert self.unpacked is not None
        self.unpacked.append(saved)
        return self._nothing

    def read_attribute(self, node: Any, attribute: str) -> list[SavedTensor | KeptTensor | None]:
        """The tensors that ``node`` saved under ``attribute``, without computing them; empty if they are unknown."""
        return self.read_attributes(node, (attribute,))

    def read_attributes(self, node: Any, attributes: tuple[str, ...]) -> list[SavedTensor | KeptTensor | None]:
        """The tensors that ``node`` saved under all ``attributes``, in order."""
        if node._sequence_nr() not in self._own:
            return []
        unpacked: list[SavedTensor | KeptTensor] = []
        saved: list[SavedTensor | KeptTensor | None] = []
        self.unpacked = unpacked
        try:
            for attribute in attributes:
                attached = getattr(node, attribute)
                for item in attached if isinstance(attached, tuple) else (attached,):
                    if item is None:
                        saved.append(None)
                    elif unpacked:
                        saved.append(unpacked.pop(0))
                    else:  # a tensor without hooks was not saved by this context
                        return []
                if unpacked:
                    return []
        except (RuntimeError, AttributeError):  # it was freed, or the node has no such attribute
            return []
        finally:
            self.unpacked = None
        return saved

    def formula(self, node: Any, number: int, storage: SavedStorage, *, allow_fused: bool) -> Formula | None:
        """The formula for ``storage``, the storage of the output ``number`` of ``node``; None if it is unknown.

        ``allow_fused``: whether one of bnkit's loops may replace several functions of PyTorch.
        """
        self._wanted = storage  # it cannot be part of its own formula
        self._allow_fused = allow_fused
        while type(node).__name__ in _VIEWS and node.next_functions:
            node, number = node.next_functions[0]
            if node is None:
                return None
        if type(node).__name__ in _POOLS:
            self._narrow(node)
            return None
        return self._formula_of(node, number)

    def _narrow(self, node: Any) -> None:
        """Store the indices that a max-pool's ``node`` saved in the smallest sufficient dtype."""
        inputs, places = self.read_attribute(node, "_saved_self"), self.read_attribute(node, "_saved_result1")
        if not (inputs and places and isinstance(inputs[0], SavedTensor) and isinstance(places[0], SavedTensor)):
            return
        storage = places[0].storage
        spatial = inputs[0].shape[-3:] if "3D" in type(node).__name__ else inputs[0].shape[-2:]
        largest = math.prod(spatial) - 1
        dtype = next(d for d in (torch.uint8, torch.int16, torch.int32, torch.int64) if largest <= torch.iinfo(d).max)
        tensor = storage.tensor
        if tensor is None or tensor.dtype != torch.int64 or dtype == torch.int64:
            return
        formula = CastFormula(tensor.to(dtype), tensor.dtype)
        if formula.narrow.stride() == tensor.stride() and storage.nbytes == tensor.numel() * tensor.element_size():
            storage.drop(formula)

    def _formula_of(self, node: Any, number: int) -> Formula | None:
        name = type(node).__name__
        if name in ACTIVATIONS:
            return self._activation(node, name)
        if name == "AddBackward0" and node._saved_alpha == 1:
            return self._combined(node, add, "sum")
        if name == "CatBackward0":
            dimension = node._saved_dim
            return self._combined(node, cat(dimension), ("cat", dimension))
        if name in {"ToCopyBackward0", "CloneBackward0"}:
            of = self._argument(node, 0)
            dtype = node._input_metadata[0].dtype  # the dtype of the result
            return None if of is None else ActivationFormula(of, to_dtype(dtype), (name, dtype))
        if number == 0:
            read = batch_norm_nodes.READERS.get(name)
            if read is not None:
                return read(node, self, self._allow_fused)
        return None

    def _argument(self, node: Any, argument: int) -> Formula | None:
        """The formula for an argument of ``node``: the saved tensor, or the formula of the node that computed it."""
        source, number = node.next_functions[argument]
        if source is None:
            return None
        known = self._named.get((source._sequence_nr(), number))
        saved: SavedTensor | None = None if known is None else known()
        if saved is not None and saved.storage is not self._wanted and saved.storage.is_current():
            return Leaf(saved.new_use())
        return self._formula_of(source, number)

    def _activation(self, node: Any, name: str) -> Formula | None:
        of = self._argument(node, 0)
        if of is None:
            return None
        fused = fused_recompute_formula.with_relu(of) if name == "ReluBackward0" else None
        if fused is not None:
            return fused
        known = ACTIVATIONS[name]
        arguments = tuple(getattr(node, f"_saved_{argument}") for argument in known.arguments)
        return ActivationFormula(of, activation(known.plain, known.in_place, arguments), (name, arguments))

    def _combined(self, node: Any, function: Callable[..., Tensor], kind: Any) -> Formula | None:
        parts = [self._argument(node, argument) for argument in range(len(node.next_functions))]
        known = tuple(part for part in parts if part is not None)
        if not len(known) == len(parts) >= 2:
            return None
        fused = fused_recompute_formula.add(*known) if kind == "sum" else None
        return fused or CombinedFormula(known, function, kind)
