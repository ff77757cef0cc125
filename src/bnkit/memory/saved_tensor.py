"""Placeholders for saved tensors in the autograd graph."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.memory.saved_storage import SavedStorage


class SavedTensor:
    """A tensor that autograd saved, as a view of the content of its storage.

    Attributes:
        storage: The content of the storage.
        shape, stride, offset: Those of the tensor, in elements.
    """

    __slots__ = ("__weakref__", "_generation", "offset", "shape", "storage", "stride")

    def __init__(self, storage: SavedStorage, shape: torch.Size, stride: tuple[int, ...], offset: int) -> None:
        self.storage = storage
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self._generation = storage.begin_use()

    def __del__(self) -> None:
        self.storage.end_use(self._generation)

    def new_use(self) -> SavedTensor:
        """Another reference to the same tensor, for another user."""
        return SavedTensor(self.storage, self.shape, self.stride, self.offset)

    def value(self) -> Tensor:
        """The tensor, outside the graph; raises the errors of ``SavedStorage.value``."""
        whole, self._generation = self.storage.value(self._generation)
        if whole.shape == self.shape and whole.stride() == self.stride and whole.storage_offset() == self.offset:
            return whole
        return whole.as_strided(self.shape, self.stride, self.offset)


class KeptTensor:
    """A saved tensor that is kept: a parameter, a small tensor, or one of an unusual class or layout."""

    __slots__ = ("_version", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor if tensor.is_leaf else tensor.detach()
        self._version = tensor._version

    def value(self) -> Tensor:
        """The tensor, outside the graph.

        Raises:
            RuntimeError: It was changed in place; the same error as PyTorch's.
        """
        if self.tensor._version != self._version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of "
                f"shape {tuple(self.tensor.shape)} is at version {self.tensor._version}; expected version {self._version} "
                "instead. Hint: torch.autograd.set_detect_anomaly(True) finds the operation that needs it"
            )
        return self.tensor
