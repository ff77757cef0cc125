"""Load a user's data: from a name, a path, ``file.py:factory``, tensors or Datasets."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)

from bnkit.data.catalog import load
from bnkit.data.examples import DataSet, Examples, Split
from bnkit.data.streamed_examples import Streamed
from bnkit.data.tensor_conversion import tensor_bytes
from bnkit.errors import DataError, FactoryError, SettingsError
from bnkit.import_user_function import PASSED_OBJECT, is_factory_name, load_factory, refuse_required_arguments
from bnkit.seeding import seeded


def load_data(name: str) -> DataSet:
    """The data set called ``name``, or the one that ``file.py:factory`` returns: ``(train, test)``, each ``(inputs, targets)``.

    The factory runs under a fixed seed, so that a random split or transform is the same in every call.
    """
    if name == PASSED_OBJECT:
        raise SettingsError("the data were given to bnkit.compare; call that again, with the same data")
    if not is_factory_name(name):
        return load(name)
    with seeded("data"):
        target = load_factory(name)
        factory = target.value
        if not callable(factory):
            raise FactoryError(f"{name} is a {type(factory).__name__}; expected a factory that returns (train, test)")
        refuse_required_arguments(name, factory)
        try:
            returned = factory()
        except (Exception, SystemExit) as error:
            raise FactoryError(
                f"{name} raised {type(error).__name__}: {error}; expected it to return (train, test)"
            ) from error
    return make_data_set(returned, name, target.digest)


def make_data_set(pairs: object, name: str, source: str = "") -> DataSet:
    """A data set from ``(train, test)``, each ``(inputs, targets)`` as tensors, or a Dataset.

    A DataLoader stands for its Dataset, because bnkit makes the batches itself. The digest is that of the tensors.
    Of a Dataset it is that of one pass under a fixed seed; if two passes differ, it is ``source``, the digest of the code that
    made it, with the length and the shapes.

    Raises:
        DataError: If it has another form.
    """
    digest = hashlib.sha256()
    try:
        train, test = _pair(pairs)
    except (TypeError, ValueError) as error:
        alone = "; a second one for testing: return train_loader, test_loader" if isinstance(pairs, DataLoader) else ""
        raise DataError(
            f"{name} is {_described(pairs)}; expected (train, test), each (inputs, targets) or a Dataset{alone}"
        ) from error
    splits = (
        _make_split(train, f"the training part of {name}", source, digest),
        _make_split(test, f"the test part of {name}", source, digest),
    )
    return DataSet(name, digest.hexdigest(), *splits)


def _make_split(value: object, name: str, source: str, digest: hashlib._Hash) -> Split:
    """One split from what the user passed; ``digest`` is updated with its content."""
    if isinstance(value, DataLoader):
        value = _dataset_of(value, name)
    if isinstance(value, Dataset):
        streamed = Streamed.of(value, name)
        survey = streamed.survey
        # Not the mean and the labels: they differ between passes if the inputs or targets do.
        digest.update(repr((source, len(streamed), survey.shape, survey.target_shape, survey.content)).encode())
        return streamed
    try:
        inputs, targets = _pair(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} is {_described(value)}; expected (inputs, targets), two tensors, or a Dataset"
        ) from error
    wrong = next((value for value in (inputs, targets) if not isinstance(value, Tensor)), None)
    if wrong is not None:
        hint = "; torch.from_numpy makes one" if isinstance(wrong, np.ndarray) else ""
        raise DataError(f"{name} holds a {type(wrong).__name__}; expected tensors: (inputs, targets){hint}")
    part = Examples.of(inputs, targets, name)
    for tensor in (inputs, targets):
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode() + tensor_bytes(tensor))
    return part


def _dataset_of(loader: DataLoader[Any], name: str) -> Dataset[Any]:
    """The dataset of ``loader``, if its batches are batches of that dataset's examples: bnkit makes its own.

    Raises:
        DataError: If they have a ``collate_fn``, a selection of examples, or a batching of their own, which would be lost.
    """
    sampler = loader.sampler
    if loader.batch_size is None:
        lost, instead = "batches of its own", "a Dataset whose __getitem__ returns one example (input, target)"
    elif loader.collate_fn is not default_collate:
        called = getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__)
        lost, instead = f"the collate_fn {called}", "a Dataset whose __getitem__ does what that does to an example"
    elif isinstance(sampler, SubsetRandomSampler):
        lost, instead = "a SubsetRandomSampler", "torch.utils.data.Subset(loader.dataset, loader.sampler.indices)"
    elif not isinstance(loader.dataset, IterableDataset) and not _takes_each_once(sampler, loader.dataset):
        lost, instead = f"a {type(sampler).__name__}", "loader.dataset, if every example should be used once an epoch"
    else:
        return loader.dataset
    raise DataError(
        f"{name} is a DataLoader with {lost}, and bnkit makes the batches itself, from a Dataset; expected {instead}"
    )


def _takes_each_once(sampler: object, dataset: Dataset[Any]) -> bool:
    """Whether ``sampler`` is one of PyTorch's that takes each example of ``dataset`` once; a subclass may do anything."""
    if type(sampler) is RandomSampler:
        source: Any = sampler.data_source
        is_once = not sampler.replacement and sampler.num_samples == len(source)
    elif type(sampler) is SequentialSampler:
        source, is_once = sampler.data_source, True
    else:
        return False
    return is_once and (source is dataset or len(source) == len(cast("Any", dataset)))


def _pair(of: object) -> tuple[Any, Any]:
    if not isinstance(of, (tuple, list)):
        raise TypeError
    first, second = of
    return first, second


def _described(value: object) -> str:
    of = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    package = type(value).__module__.partition(".")[0]
    return f"a {'' if package in ('builtins', 'torch') else f'{package}.'}{type(value).__name__}{of}"
