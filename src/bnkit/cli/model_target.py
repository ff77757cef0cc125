"""Load the model that a command works on: a factory, a file of weights, and an example or data."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bnkit.cli.input_shapes import example_of
from bnkit.errors import BnkitError, FactoryError, SettingsError
from bnkit.experiments.data_for_model import ModelData, model_data
from bnkit.import_user_function import load_factory, refuse_required_arguments
from bnkit.message_parts import plural
from bnkit.model.inspect.batches import device_of
from bnkit.model.inspect.construction_lines import record_construction
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.lazy_parameters import first_lazy, materialise
from bnkit.model.untrusted_checkpoint import Inert, hyper_parameters
from bnkit.model.weight_files import LoadedWeights, load_weights
from bnkit.seeding import seeded


@dataclass(frozen=True)
class ModelTarget:
    """A model, and inputs for it.

    Attributes:
        model: The model.
        example: A tuple (positional arguments) or a dictionary (keywords) of tensors; None if none was asked for.
        data: The data that the example was taken from; None otherwise.
        weights: The place of the weights in their file; None without a file.
    """

    model: nn.Module
    example: Any
    data: ModelData | None = None
    weights: LoadedWeights | None = None

    @property
    def given(self) -> str | None:
        """A line about the data that the model gets; None without data."""
        return None if self.data is None else self.data.given


def read_model_target(
    name: str,
    shapes: Sequence[str] = (),
    data: str | None = None,
    weights: Path | None = None,
    inputs: str | None = None,
) -> ModelTarget:
    """The model that ``name`` refers to, and an example for it. Lazy layers have run on the example.

    Args:
        name: ``package.module:factory`` or ``path/to/file.py:factory``. The factory is called without arguments, under a
            fixed seed; the name of a model works too.
        shapes: The shapes of an example, such as ``64x3x32x32`` (see ``input_shapes.example_of``).
        data: Instead of ``shapes``: a data set; the example is the first 64 examples of its training part.
        weights: A file of weights to load.
        inputs: The form in which the model gets the data (see ``model_data``).

    Raises:
        BnkitError: If one of these does not exist, or they contradict each other.
    """
    check_inputs(shapes, data, inputs)
    if inputs is not None and data is None:
        raise SettingsError(f"--inputs {inputs} without --data; expected both, or neither")
    with record_construction():
        model = make_model(name, weights)
    loaded = None if weights is None else load_weights(model, weights)
    return prepare_model_target(model, shapes, None if data is None else model_data(data, inputs), loaded)


def check_inputs(shapes: Sequence[str], data: str | None, inputs: str | None) -> None:
    """Raise if the example, the data and the form of the data contradict each other.

    Raises:
        SettingsError: If they do.
    """
    if shapes and data is not None:
        raise SettingsError(f"--input {shapes[0]} with --data {data}; expected one of the two")
    if inputs is not None and shapes:
        raise SettingsError(f"--inputs {inputs} with --input {shapes[0]}; expected --inputs only with --data")


def prepare_model_target(
    model: nn.Module, shapes: Sequence[str], data: ModelData | None, weights: LoadedWeights | None = None
) -> ModelTarget:
    """``model`` with an example made from ``shapes``, or taken from ``data``."""
    fitted = None if data is None else data.matched_to(model)
    example: Any = None
    if fitted is not None:
        example = fitted.example(device_of(model))
    elif shapes:
        example = example_of(shapes, model)
    if example is not None and first_lazy(model) is not None:
        materialise(model, Example(example))
    return ModelTarget(model, example, fitted, weights)


# Rules about the running statistics; the first needs data.
_ABOUT_STATISTICS = ("BN201", "BN202", "BN203")
# The batches that the rules measure.
_BATCHES = 32


def stale_statistics(model_target: ModelTarget) -> str:
    """What is wrong with the model's running statistics, on its data if it has some, in one line; empty if nothing is found."""
    from bnkit.checks.check import check

    data = model_target.data
    try:
        findings = check(
            model_target.model,
            None if data is None else data.training_batches(count=_BATCHES),
            test_batches=None if data is None else data.test_batches(),
            select=_ABOUT_STATISTICS,
        )
    except BnkitError:  # the command itself says what is wrong with the model or the data
        return ""
    if not findings:
        return ""
    first = findings[0]
    others = len({finding.site for finding in findings}) - 1
    more = f", and {plural(others, 'more layer')}" if others else ""
    return f"{first.message.splitlines()[0]} ({first.code}, {first.site or 'the model'}{more})"


def make_model(name: str, weights: Path | None = None) -> nn.Module:
    """Call the factory of that name.

    Args:
        name: As for ``read_model_target``.
        weights: A checkpoint with hyper-parameters, the arguments of a ``LightningModule`` if it needs some.

    Raises:
        FactoryError: If it does not exist, raises, or does not return an ``nn.Module``.
    """
    value = load_factory(name).value
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise FactoryError(f"{name} is a {type(value).__name__}; expected a factory that returns an nn.Module")
    arguments = _arguments(value, weights)
    refuse_required_arguments(name, value, arguments)
    try:
        with seeded(0, "weights"):
            model = value(**arguments)
    except FactoryError:
        raise
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{name} raised {type(error).__name__}: {error}; expected it to return an nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise FactoryError(f"{name} returned a {type(model).__name__}; expected an nn.Module")
    return model


def _arguments(factory: Any, weights: Path | None) -> dict[str, Any]:
    """The hyper-parameters in ``weights`` that ``factory`` takes, if it is a class that requires arguments."""
    if weights is None or not isinstance(factory, type):
        return {}
    parameters = inspect.signature(factory).parameters.values()
    needs = {each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD}
    if not needs:
        return {}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    names = {each.name for each in parameters}
    known = {key: value for key, value in hyper_parameters(weights).items() if takes_any or key in names}
    code = next((f"{key} is a {value.name}" for key, value in known.items() if isinstance(value, Inert)), None)
    if code is not None:
        raise FactoryError(
            f"{weights}: the hyper-parameter {code}, which is code and is not loaded; expected a factory without arguments, "
            f"such as def make(): return {factory.__name__}(…)"
        )
    return known
