"""Batches in all supported forms, and how a model is called with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, IterableDataset

from bnkit.argument_checks import check_int
from bnkit.errors import BnkitError, DataError, ModelError, SettingsError
from bnkit.model.inspect.example import tensors_in

Forward = Callable[[Any, Any], Any]


class Batches:
    """Batches of a model's inputs: a tensor, or any iterable of batches.

    Args:
        source: A ``DataLoader``, a list, an iterator, or a tensor, which is one batch. If a batch is a tuple or a list,
            its first entry is the input; a dictionary holds keyword arguments.
        forward: A function that is called with the model and each whole batch.
        batch_size: Split the given tensor into batches of this size. A single remaining example joins the batch before
            it, because its variance would be 0.
        device: The device to which tensors are moved before the model is called.

    Raises:
        SettingsError: ``source`` has another type, or ``batch_size`` does not apply.
    """

    def __init__(
        self, source: Any, forward: Forward | None = None, batch_size: int | None = None, device: Any = None
    ) -> None:
        if batch_size is not None and not isinstance(source, Tensor):
            raise SettingsError(
                f"batch_size={batch_size} with a {type(source).__name__}; expected a tensor to cut, or no batch_size"
            )
        if batch_size is not None:
            check_int("batch_size", batch_size)
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            raise SettingsError(
                f"batches is a {type(source).__name__}, which gives single examples; expected batches: wrap it in a DataLoader"
            )
        if isinstance(source, (str, bytes, Mapping)) or not isinstance(source, (Tensor, Iterable)):
            raise SettingsError(
                f"batches is a {type(source).__name__}; expected a DataLoader, a tensor, a list of batches or an iterator; "
                "a single batch goes into a list"
            )
        self._source = _split(source, batch_size) if isinstance(source, Tensor) else source
        self._forward = forward
        self._device = device

    @property
    def is_repeatable(self) -> bool:
        """Whether they can be iterated over several times."""
        return not isinstance(self._source, Iterator)

    @property
    def are_taken_whole(self) -> bool:
        """Whether the user's ``forward`` is called with whole batches, of any type."""
        return self._forward is not None

    def after(self, first: Sequence[Any]) -> Batches:
        """``first``, the batches taken out so far, followed by the remaining ones."""
        together = copy(self)
        together._source = chain(first, self._source)
        return together

    def __iter__(self) -> Iterator[Any]:
        return iter(self._source)

    def run(self, model: nn.Module, batch: Any, number: int) -> Any:
        """The output of ``model`` for ``batch``, which is not changed; ``number``, from 1, is used in messages.

        Raises:
            ModelError: The model raises.
            DataError: ``batch`` is not a batch.
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
                f"{' '.join(str(error).split())[:300]}; expected batches that the model can be called with, or a `forward` that takes "
                "them"
            ) from error


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the first parameter or buffer of ``model``; None if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the first floating-point parameter of ``model``; float32 if there is none."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)


def join_last_single(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """``batches``, the last one joined to the one before if it is a single example, whose variance is 0.

    Examples:
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
            "dictionary of keyword arguments; or a `forward` that takes the batch"
        )
    return batch


def _moved(value: Any, device: Any) -> Any:
    """``value`` with its tensors copied to ``device``: a model may write into its input, and batches are reused."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, copy=True)
        is_movable = device is not None and callable(getattr(leaf, "to", None))
        return leaf.to(device) if is_movable else leaf  # a library's batch type

    return tree_map(move, value)
