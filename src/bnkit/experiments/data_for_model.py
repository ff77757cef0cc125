"""Data for a model that a command loads, in the form that the model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import get_args

import torch
from torch import Tensor, nn

from bnkit.data import DataSet, Split, Splits, Streamed, TrainSet, batches, prepare
from bnkit.data.user_data import load_data
from bnkit.errors import FactoryError, ModelError, SettingsError
from bnkit.import_user_function import is_factory_name, load_factory
from bnkit.model.inspect.batches import device_of, dtype_of, join_last_single
from bnkit.model.inspect.example import Example
from bnkit.model.preserve_state import preserve_model

# The default batch size of a comparison.
_EXAMPLES = 64
_TRIED = 2
PREPARATIONS: tuple[TrainSet, ...] = get_args(TrainSet)
_DONE: dict[TrainSet, str] = {
    "normal": "normalised by its mean and deviation",
    "not_normal": "not normalised, bytes divided by 255",
    "symmetric": "scaled from [0, 1] to [-1, 1]",
}
# Maps a batch of inputs to the inputs of the model.
Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelData:
    """Data for a model, in the form that the model expects.

    Attributes:
        train, test: The two splits.
        name: What the user calls them.
        how: How they were prepared, in words.
        transform: Applied to each batch of inputs; None for nothing.
        dtype: Inputs are converted to it; None for their own.
    """

    train: Split
    test: Split
    name: str
    how: str
    transform: Transform | None = None
    dtype: torch.dtype | None = None

    @property
    def given(self) -> str:
        """A description of the training inputs in one line."""
        return f"the training part of {self.name}, {self.how}"

    def matched_to(self, model: nn.Module) -> ModelData:
        """The same data in the dtype of ``model``; integer inputs stay integers if it runs on them."""
        inputs = self._transformed(self.train.head(_TRIED)[0])
        dtype = dtype_of(model)
        if inputs.is_floating_point():
            return replace(self, dtype=dtype)
        if _takes(model, inputs):
            return self
        kinds = (str(kind).removeprefix("torch.") for kind in (inputs.dtype, dtype))
        return replace(self, dtype=dtype, how=f"{self.how}, {' as '.join(kinds)} without scaling")

    def example(self, device: torch.device | None) -> tuple[Tensor]:
        """The first 64 inputs of the training part, on ``device``."""
        return (self._ready(self.train.head(_EXAMPLES)[0]).to(device),)

    def training_batches(self, batch_size: int = _EXAMPLES, count: int | None = None) -> ModelBatches:
        """The training split in a fixed random order; ``count`` batches of it, or all."""
        part = self.train
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        return ModelBatches(part[order if count is None else order[: count * batch_size]], batch_size, self._ready)

    def test_batches(self, batch_size: int = _EXAMPLES) -> ModelBatches:
        """The test split, in its own order."""
        return ModelBatches(self.test, batch_size, self._ready)

    def _transformed(self, inputs: Tensor) -> Tensor:
        return inputs if self.transform is None else self.transform(inputs)

    def _ready(self, inputs: Tensor) -> Tensor:
        return self._transformed(inputs).to(self.dtype)


class ModelBatches:
    """Batches ``(inputs, targets)`` of a part, the same in every pass.

    A last batch of one example, which has no variance, is merged with the batch before it.

    Args:
        part: The examples.
        batch_size: The number of examples in a batch.
        ready: Prepares the inputs of a batch.

    Raises:
        SettingsError: If the batch size is below 1.
    """

    def __init__(self, part: Split, batch_size: int, ready: Transform) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size={batch_size}; expected a whole number above 0")
        self._part, self._batch_size, self._ready = part, batch_size, ready

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        ready = ((self._ready(inputs), targets) for inputs, targets in batches(self._part, self._batch_size))
        yield from join_last_single(ready)


class _UnscaledExamples(Streamed):
    """Examples of a Dataset, on the device, but not converted."""

    def _ready(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.device)


def model_data(name: str, inputs: str | None, run: tuple[str, TrainSet] | None = None) -> ModelData:
    """The data called ``name``, prepared for a model.

    The output of a ``file.py:factory`` goes to the model unchanged. For other data sets, ``inputs`` sets the preparation.

    Args:
        name: A data set, as for ``bnkit compare``.
        inputs: "normal", "not_normal", "symmetric" (as ``prepare`` does), or ``file.py:function`` of a batch of inputs. None
            if ``name`` or ``run`` implies it.
        run: For a model that a run trained: the name of the run's data, and how they were prepared. Other data are normalised
            by the mean and deviation of those.

    Raises:
        SettingsError: If it is unknown how to prepare the inputs.
        BnkitError: If the data or the function cannot be loaded.
    """
    data = load_data(name)
    if inputs is not None and is_factory_name(inputs):
        function = load_transform(inputs)
        return ModelData(_unscaled(data.train), _unscaled(data.test), name, f"through {inputs}", function)
    if inputs is not None:
        if inputs not in PREPARATIONS:
            raise SettingsError(f"`inputs` {inputs}; expected {_CHOICES}")
        parts = prepare(data, inputs, 0.0)
        return ModelData(parts.train, parts.test, name, _DONE[inputs])
    if is_factory_name(name):
        return ModelData(_unscaled(data.train), _unscaled(data.test), name, "as its factory returns it")
    if run is not None:
        known, preparation = run
        own = load_data(known).train
        train, test = (
            prepare(DataSet(name, data.digest, own, part), preparation, 0.0).test for part in (data.train, data.test)
        )
        return ModelData(train, test, name, f"prepared as the run's own data ({_DONE[preparation]})")
    raise SettingsError(
        f"`data` {name}: nothing says in which form the model is to get these inputs; expected the form that it was trained on: "
        f"`inputs` {_CHOICES}"
    )


def data_of_run(parts: Splits, name: str, preparation: TrainSet) -> ModelData:
    """The data of a run, prepared as in its training."""
    are_numbers = parts.train.head(1)[0].is_floating_point()
    done = f" ({_DONE[preparation]})" if are_numbers else ""
    return ModelData(parts.train, parts.test, name, f"as the run was trained on it{done}")


_CHOICES = (
    "normal (by the mean and deviation of the training part), not_normal (as they are, bytes divided by 255), symmetric (from "
    "-1 to 1), or file.py:function of a batch of inputs"
)


def load_transform(name: str) -> Transform:
    """The function called ``name``, of a batch of inputs; each call checks its result.

    Raises:
        FactoryError: If it cannot be imported, or is not a function.
    """
    function = load_factory(name).value
    if not callable(function):
        raise FactoryError(f"{name} is a {type(function).__name__}; expected a function of a batch of inputs")

    def transform(inputs: Tensor) -> Tensor:
        try:
            transformed = function(inputs)
        except Exception as error:
            raise FactoryError(
                f"{name} raised {type(error).__name__} on inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: {error}; "
                "expected it to return the inputs that the model is given"
            ) from error
        if not isinstance(transformed, Tensor) or transformed.shape[:1] != inputs.shape[:1]:
            what = (
                f"{tuple(transformed.shape)}" if isinstance(transformed, Tensor) else f"a {type(transformed).__name__}"
            )
            raise FactoryError(
                f"{name} returned {what} for inputs of shape {tuple(inputs.shape)}; expected a tensor with as many examples"
            )
        return transformed

    return transform


def _unscaled(part: Split) -> Split:
    if not isinstance(part, Streamed):
        return part
    return _UnscaledExamples(**{field.name: getattr(part, field.name) for field in fields(part)})


def _takes(model: nn.Module, inputs: Tensor) -> bool:
    """Whether ``model`` runs on integer ``inputs``, such as tokens for an embedding."""
    with preserve_model(model), torch.no_grad():
        try:
            Example(inputs.to(device_of(model), copy=True)).run(model.eval())
        except ModelError:
            return False
    return True
