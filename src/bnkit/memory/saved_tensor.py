"""What stands in the graph in place of a saved tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from bnkit.memory.storage import Content


class Saved:
    """A tensor that autograd saved: where it lies in the content of its storage.

    Attributes:
        content: Of the storage.
        shape, stride, offset: Of the tensor, in elements.
    """

    __slots__ = ("__weakref__", "_round", "content", "offset", "shape", "stride")

    def __init__(self, content: Content, shape: torch.Size, stride: tuple[int, ...], offset: int) -> None:
        self.content = content
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self._round = content.begin_use()

    def __del__(self) -> None:
        self.content.end_use(self._round)

    def for_another(self) -> Saved:
        """The same for another user."""
        return Saved(self.content, self.shape, self.stride, self.offset)

    def value(self) -> Tensor:
        """The tensor, outside the graph; for the errors see ``Content.value``."""
        whole, self._round = self.content.value(self._round)
        if whole.shape == self.shape and whole.stride() == self.stride and whole.storage_offset() == self.offset:
            return whole
        return whole.as_strided(self.shape, self.stride, self.offset)


class Kept:
    """A saved tensor that stays: a parameter, a few values, or one of a class or layout of its own."""

    __slots__ = ("_version", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor if tensor.is_leaf else tensor.detach()
        self._version = tensor._version

    def value(self) -> Tensor:
        """The tensor, outside the graph.

        Raises:
            RuntimeError: It was changed in place, as PyTorch raises it.
        """
        if self.tensor._version != self._version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of "
                f"shape {tuple(self.tensor.shape)} is at version {self.tensor._version}; expected version {self._version} "
                "instead. Hint: torch.autograd.set_detect_anomaly(True) finds the operation that needs it"
            )
        return self.tensor
