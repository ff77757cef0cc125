"""Batches as somebody has them, and how a model is called with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, IterableDataset

from bnkit.arguments import check_int
from bnkit.errors import BnkitError, DataError, ModelError, SettingsError
from bnkit.model.inspect.example import tensors_in

Forward = Callable[[Any, Any], Any]


class Batches:
    """Batches of a model's inputs: a tensor, or whatever can be iterated over.

    Args:
        given: A ``DataLoader``, a list, an iterator, or a tensor, which is one batch. Of a batch that is a tuple or a list the
            first entry is the input; a dictionary holds keyword arguments.
        forward: How a model is called with a batch, which is then handed over whole.
        batch_size: Cut the tensor given into batches of so many. A rest of one goes with the batch before it: alone, it has no
            deviation.
        device: Where tensors are moved before the model gets them.

    Raises:
        SettingsError: It is something else, or ``batch_size`` does not apply.
    """

    def __init__(
        self, given: Any, forward: Forward | None = None, batch_size: int | None = None, device: Any = None
    ) -> None:
        if batch_size is not None and not isinstance(given, Tensor):
            raise SettingsError(
                f"batch_size={batch_size} with a {type(given).__name__}; expected a tensor to cut, or no batch_size"
            )
        if batch_size is not None:
            check_int("batch_size", batch_size)
        if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
            raise SettingsError(
                f"batches is a {type(given).__name__}, which gives single examples; expected batches: wrap it in a DataLoader"
            )
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, (Tensor, Iterable)):
            raise SettingsError(
                f"batches is a {type(given).__name__}; expected a DataLoader, a tensor, a list of batches or an iterator; "
                "a single batch goes into a list"
            )
        self._given = _split(given, batch_size) if isinstance(given, Tensor) else given
        self._forward = forward
        self._device = device

    @property
    def is_repeatable(self) -> bool:
        """Whether they can be gone through a second time."""
        return not isinstance(self._given, Iterator)

    @property
    def are_taken_whole(self) -> bool:
        """Whether a function of the user's own is called with whole batches, whatever is in them."""
        return self._forward is not None

    def after(self, first: Sequence[Any]) -> Batches:
        """``first``, which was taken out, and then what is left."""
        together = copy(self)
        together._given = chain(first, self._given)
        return together

    def __iter__(self) -> Iterator[Any]:
        return iter(self._given)

    def run(self, model: nn.Module, batch: Any, number: int) -> Any:
        """What ``model`` returns for ``batch``, which is left as it is; ``number`` counts from 1 and stands in messages.

        Raises:
            ModelError: It raises.
            DataError: The batch is none.
        """
        moved = _moved(batch, self._device)
        try:
            if self._forward is not None:
                return self._forward(model, moved)
            inputs = _inputs(moved, number)
            return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        except BnkitError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{tuple(tensor.shape)} of {tensor.dtype}" for _, tensor in tensors_in(moved))
            raise ModelError(
                f"{type(model).__name__} raised {type(error).__name__} on batch {number} ({shapes or 'no tensors'}): "
                f"{' '.join(str(error).split())[:300]}; expected batches that the model can be called with, or forward="
            ) from error


def device_of(model: nn.Module) -> torch.device | None:
    """Where the first parameter or buffer of ``model`` is; None if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def dtype_of(model: nn.Module) -> torch.dtype:
    """That of the first floating-point parameter; float32 if there is none."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)


def join_last_single(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """``batches``, the last one joined to the one before if it is a single example, whose variance is 0.

    Example:
        >>> [len(inputs) for (inputs,) in join_last_single((part,) for part in torch.ones(9, 3).split(4))]
        [4, 5]
    """
    before: tuple[Tensor, ...] | None = None
    for batch in batches:
        if before is None:
            before = batch
        elif len(batch[0]) == 1 < len(before[0]):
            before = tuple(torch.cat(pair) for pair in zip(before, batch, strict=True))
        else:
            yield before
            before = batch
    if before is not None:
        yield before


def _split(tensor: Tensor, batch_size: int | None) -> list[Tensor]:
    if tensor.layout != torch.strided:
        raise SettingsError(
            f"batches is a tensor of layout {tensor.layout}, which cannot be cut; expected a dense one, or a list of batches"
        )
    if tensor.dim() == 0:
        raise SettingsError(
            "batches is a tensor without dimensions; expected inputs, the first dimension of which counts them"
        )
    if len(tensor) == 0:
        return []
    parts = torch.split(tensor, int(batch_size or len(tensor)))
    return [part for (part,) in join_last_single((part,) for part in parts)]


def _inputs(batch: Any, number: int) -> Any:
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise DataError(
                f"batch {number} is an empty {type(batch).__name__}; expected its first entry to be the input"
            )
        batch = batch[0]
    if batch is None or isinstance(batch, (str, bytes)):
        raise DataError(
            f"batch {number} holds a {type(batch).__name__}; expected a tensor, a tuple whose first entry is the input, or a "
            "dictionary of keyword arguments; forward= takes anything else"
        )
    return batch


def _moved(value: Any, device: Any) -> Any:
    """``value`` with its tensors on ``device``, always copies: a model may write into its input, and there is a next pass."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, copy=True)
        is_movable = device is not None and callable(getattr(leaf, "to", None))
        return leaf.to(device) if is_movable else leaf  # a batch of a library's own type

    return tree_map(move, value)
