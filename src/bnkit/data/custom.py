"""Data that a user names or hands in: a name, a path, ``file.py:factory``, tensors, or Datasets."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bnkit.data.catalog import load
from bnkit.data.examples import DataSet, Examples
from bnkit.data.streamed import Streamed
from bnkit.errors import DataError, FactoryError, SettingsError
from bnkit.factories import GIVEN, find, is_target


def data_called(name: str) -> DataSet:
    """The data set of that name, or what ``file.py:factory`` returns: ``(train, test)``, each ``(inputs, targets)``."""
    if name == GIVEN:
        raise SettingsError("the data were given to bnkit.compare; call that again, with the same data")
    if not is_target(name):
        return load(name)
    target = find(name)
    factory = target.value
    if not callable(factory):
        raise FactoryError(f"{name} is a {type(factory).__name__}; expected a factory that returns (train, test)")
    try:
        made = factory()
    except Exception as error:
        raise FactoryError(
            f"{name} raised {type(error).__name__}: {error}; expected it to return (train, test)"
        ) from error
    return data_from(made, name, target.digest)


def data_from(pairs: object, name: str, source: str = "") -> DataSet:
    """A data set from ``((train_inputs, train_targets), (test_inputs, test_targets))``, all tensors, or from two Datasets.

    What Datasets hold is known only by their lengths and by what one pass over them finds; ``source``, the digest of the
    file that made them, stands for the rest.

    Raises:
        DataError: It has another form.
    """
    try:
        train, test = _pair(pairs)
        if isinstance(train, Dataset) and isinstance(test, Dataset):
            streamed = Streamed.of(train, f"the training part of {name}"), Streamed.of(test, f"the test part of {name}")
            known = repr((source, [(len(part), part.survey) for part in streamed]))
            return DataSet(name, hashlib.sha256(known.encode()).hexdigest(), *streamed)
        tensors = (*_pair(train), *_pair(test))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} is a {type(pairs).__name__}; expected (train, test), each (inputs, targets) or a Dataset"
        ) from error
    wrong = next((tensor for tensor in tensors if not isinstance(tensor, Tensor)), None)
    if wrong is not None:
        raise DataError(
            f"{name} holds a {type(wrong).__name__}; expected tensors: (inputs, targets) for train and test"
        )
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    parts = Examples(tensors[0], tensors[1]), Examples(tensors[2], tensors[3])
    return DataSet(name, digest.hexdigest(), *parts)


def _pair(of: Any) -> tuple[Any, Any]:
    first, second = of
    return first, second
