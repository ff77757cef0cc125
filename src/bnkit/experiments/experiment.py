"""The experiment file: a pydantic model of its TOML, and the recipes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bnkit.errors import SettingsError
from bnkit.experiments.run_settings import Grid, Settings
from bnkit.experiments.until_settings import StoppingRule
from bnkit.import_user_function import what_it_is
from bnkit.message_parts import unknown_key, unknown_name, validation_message

_Text = Annotated[str, Field(strict=True)]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_MOST_SEEDS = 1_000_000
# What texts with a pattern may be.
_CHARACTERS, _DEVICES = "letters, digits, dots, dashes and underscores", "auto, cpu, cuda, or a GPU as cuda:0"

# The defaults in Python, on the command line and in a file. The learning rates range from one that is too small for a small
# network without batch norm to one that is too large.
DEFAULT_GRID: dict[str, tuple[Any, ...]] = {"lr": (0.03, 0.1, 0.3, 1.0), "batch_size": (64,)}
DEFAULT_ARMS = ("no_batch_norm", "batch_norm")
DEFAULT_SEEDS = 5
DEFAULT_EPOCHS = 10


class NetworkIdentity(BaseModel):
    """A network, identified in a way that does not change between calls.

    Attributes:
        key: The network's name in tables: ``batch_norm``, ``lenet.batch_norm``.
        identity: An architecture and an arm, or a factory and the digest of its source.
        kernel: The kernel of its batch norm layers if they are bnkit's; otherwise empty.
        own_dropout: Whether it has a default dropout rate, which dropout "default" keeps; otherwise that means 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: _Text
    identity: _Text
    kernel: _Text = ""
    own_dropout: Annotated[bool, Field(strict=True)] = False


class TaskIdentity(BaseModel):
    """The loss, the metric and the training step, identified in a way that does not change between calls.

    Attributes:
        loss: The name of a loss of ``torch.nn.functional``, or a function and the digest of its source.
        metric: "accuracy", the name of another metric, or a function and the digest of its source.
        goal: Whether the metric is maximized or minimized.
        training_step: Empty for the default one.
        augmentation: Empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: _Text = "cross_entropy"
    metric: _Text = "accuracy"
    goal: Literal["maximize", "minimize"] = "maximize"
    training_step: _Text = ""
    augmentation: _Text = ""

    @property
    def is_accuracy(self) -> bool:
        """Whether the metric is the accuracy."""
        return self.metric == "accuracy"


# Classification by cross-entropy, measured by accuracy.
DEFAULT_TASK = TaskIdentity()


class ResolvedExperiment(BaseModel):
    """The values that "auto" was resolved to before the first run, and everything else that could change a result.

    Attributes:
        threads: The threads of each run.
        device: The device that "auto" means.
        data: The digest of the data.
        networks: The networks in their order.
        task: The loss, the metric and the training step.
        processes: The number of processes that train one run together.
        ignored: By the key of a network the settings of the grid that have no effect on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(strict=True, ge=1)]
    device: _Text
    data: _Text
    networks: tuple[NetworkIdentity, ...]
    task: TaskIdentity = DEFAULT_TASK
    processes: Annotated[int, Field(strict=True, ge=1)] = 1
    ignored: dict[_Text, tuple[_Text, ...]] = Field(default_factory=dict)


class Experiment(BaseModel):
    """A comparison: networks, data, grid, seeds. Unknown keys and wrong types are refused.

    Attributes:
        name: The name of the results folder; letters, digits, ``_.-``.
        about: Its question, in a sentence.
        data: The name of a data set, or ``file.py:factory``.
        networks: Names of architectures, or ``file.py:factory``.
        arms: The variants of each architecture: "no_batch_norm", "batch_norm", "reference", "torch", "group_norm".
        grid: The values of each setting.
        seeds: Their number (0 to n - 1), or a list of seeds; with ``until`` those of its first round.
        epochs: The epochs of each run.
        validation: The fraction of the training data that learning rates are chosen on; 0 for none.
        loss: A loss of ``torch.nn.functional`` by name, or ``file.py:function`` of (outputs, targets). "auto":
            "cross_entropy" for class numbers, "mse_loss" for floating targets.
        metric: The metric of the comparison: a name, or ``file.py:function`` of the outputs and the targets of a whole
            split. "auto": "accuracy", and "r2_score" for floating targets.
        training_step: ``file.py:function`` of (model, optimizer, loss, inputs, targets), which takes a step and returns
            the loss and the outputs.
        augmentation: "crop_and_flip", or ``file.py:function`` of the inputs and targets of a training batch, which
            returns both.
        drop_last: Leave out the smaller last batch of each epoch. A last batch of one example, whose variance is 0, is always
            left out.
        train_examples, test_examples: Use this many random examples of each split, the same for all runs; 0 for all.
        observe: Record layer statistics every this many steps (see ``bnkit.model.instrument.layer_instrumentation``); 0 for never.
        landscape: Record the loss along the step every this many steps (see ``bnkit.model.instrument.loss_landscape``); 0 for
            never.
        evaluate_training: After each epoch, evaluate the training split too, as the test set is.
        population_every_epoch: Evaluate with the population statistics after each epoch, not only after the last.
        threads: The threads of each run; 0 for one where the networks are small, else as many as torch uses.
        show: Additional tables at the end: "epochs" (every run and epoch, as in the course), "first_layer" (gamma and
            beta of the first batch norm), "crossed" (settings against networks), "losses" (a line for every epoch).
        until: The rule for adding seeds; None to train only ``seeds``.
        settled: Written by bnkit into the results folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(strict=True, pattern=_NAME, max_length=100)]
    about: _Text = ""
    data: _Text = "digits"
    networks: Annotated[tuple[_Text, ...], Field(min_length=1)]
    arms: Annotated[tuple[_Text, ...], Field(min_length=1)] = DEFAULT_ARMS
    grid: Grid
    seeds: tuple[Annotated[int, Field(strict=True, ge=0)], ...]
    epochs: Annotated[int, Field(strict=True, ge=1)]
    validation: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.1
    loss: _Text = "auto"
    metric: _Text = "auto"
    training_step: _Text = "default"
    augmentation: _Text = "none"
    drop_last: Annotated[bool, Field(strict=True)] = False
    train_examples: Annotated[int, Field(strict=True, ge=0)] = 0
    test_examples: Annotated[int, Field(strict=True, ge=0)] = 0
    observe: Annotated[int, Field(strict=True, ge=0)] = 0
    landscape: Annotated[int, Field(strict=True, ge=0)] = 0
    evaluate_training: Annotated[bool, Field(strict=True)] = False
    population_every_epoch: Annotated[bool, Field(strict=True)] = False
    threads: Annotated[int, Field(strict=True, ge=0)] = 0
    show: tuple[Literal["epochs", "first_layer", "crossed", "losses"], ...] = ()
    until: StoppingRule | None = None
    settled: ResolvedExperiment | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_rates(cls, content: object) -> object:
        # An experiment in a results folder is complete: nothing is filled in.
        grid = content.get("grid") if isinstance(content, Mapping) else None
        if not isinstance(content, Mapping) or not isinstance(grid, Mapping) or not grid or "settled" in content:
            return content
        return {**content, "grid": {"lr": DEFAULT_GRID["lr"], **grid}}

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds_from_count(cls, value: object) -> object:
        if type(value) is int and not 1 <= value <= _MOST_SEEDS:
            raise ValueError(f"expected at least 1 seed, at most {_MOST_SEEDS:,}")
        if type(value) is not int and not isinstance(value, (list, tuple)):
            raise ValueError("expected a whole number, or a list of whole numbers")
        return tuple(range(value)) if type(value) is int else value

    @field_validator("seeds", "arms", "networks")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("expected at least one")
        if len(set(value)) != len(value):
            raise ValueError("expected each of them once")
        return value

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_with_keys(cls, value: object) -> object:
        if isinstance(value, Mapping) and not value:
            raise ValueError("the grid is empty; expected at least lr, as in lr = [0.01, 0.1]")
        return value

    def to_toml(self) -> str:
        """The experiment as TOML; reading that gives an equal experiment."""
        content = self.model_dump(mode="json", exclude_none=True, exclude={"grid"})
        if self.settled is not None and not self.settled.ignored:  # which earlier versions do not know
            del content["settled"]["ignored"]
        grid = {key: list(getattr(self.grid, key)) for key in self.grid.explicit_keys}
        return tomli_w.dumps({**content, "seeds": list(self.seeds), "grid": grid})


def default_experiment(name: str, networks: Sequence[str], grid: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of an experiment with defaults for all but the networks and ``grid``; not yet validated."""
    content = {"name": name, "networks": list(networks), "seeds": DEFAULT_SEEDS, "epochs": DEFAULT_EPOCHS}
    return {**content, "grid": {} if grid is not None and not grid else {**DEFAULT_GRID, **(grid or {})}}


def parse_experiment(content: Mapping[str, Any], origin: str, replaced: Mapping[str, str] | None = None) -> Experiment:
    """The validated experiment.

    Args:
        content, origin: The experiment, as in a file, and where it comes from.
        replaced: The names of keys that come from elsewhere, as "--grid lr" for "grid.lr".

    Raises:
        SettingsError: If a key is unknown, missing or of the wrong type; the message names ``origin`` and the key.

    Examples:
        >>> lenet = {"name": "mine", "networks": ["lenet"], "grid": {"lr": 0.1}, "seeds": 2, "epochs": 1}
        >>> parse_experiment(lenet, "here").seeds
        (0, 1)
    """
    try:
        return Experiment.model_validate(dict(content))
    except ValidationError as error:
        raise SettingsError(_first_error(error, origin, replaced or {})) from error


def read_experiment(path: Path) -> dict[str, Any]:
    """The content of a TOML file, not yet validated.

    Raises:
        SettingsError: If it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{path} cannot be read ({reason}); expected an experiment file in TOML") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}; expected keys like lr = [0.01, 0.1]") from error


# Recipes that are not experiments, with their questions. Named here because `demonstrations` needs torch.
_DEMONSTRATIONS = {
    "scratch-and-concise": "The layer from scratch, the built-in one and bnkit's: the same numbers, at what speed?",
    "train-and-predict": "What does a batch norm compute in training, and in prediction?",
}
DEMONSTRATION_NAMES = tuple(_DEMONSTRATIONS)


def recipes() -> tuple[str, ...]:
    """The names of the recipes that come with bnkit."""
    folder = resources.files("bnkit.experiments").joinpath("recipes")
    return tuple(sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml")))


def describe_recipes() -> dict[str, str]:
    """The question of each recipe, in a sentence, by its name."""
    return dict(sorted({**{name: str(read_recipe(name)["about"]) for name in recipes()}, **_DEMONSTRATIONS}.items()))


def read_recipe(name: str) -> dict[str, Any]:
    """The content of a recipe, not yet validated.

    Raises:
        SettingsError: If there is no recipe of that name.
    """
    if name not in recipes():
        known, more = sorted((*recipes(), *DEMONSTRATION_NAMES)), ", a FILE.toml, or file.py:factory"
        raise SettingsError(unknown_name("no recipe is called", name, known, more) + what_it_is(name))
    file = resources.files("bnkit.experiments").joinpath("recipes", f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _first_error(error: ValidationError, origin: str, replaced: Mapping[str, str]) -> str:
    """The first of pydantic's errors in one line, and the number of others; a misspelt key comes before one that is missing."""
    first, *others = sorted(error.errors(include_url=False), key=lambda known: known["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "experiment"
    option = next((name for replaced_key, name in replaced.items() if f"{key}.".startswith(f"{replaced_key}.")), None)
    if first["type"] == "extra_forbidden":
        fields = Settings.model_fields if first["loc"][0] == "grid" else Experiment.model_fields
        message = unknown_key(first["loc"][-1], [name for name in fields if name != "settled"])
    elif first["type"] == "missing":
        message = "is missing; add it to the experiment"
    elif first["type"] == "string_pattern_mismatch":
        message = f"expected {_DEVICES if 'device' in first['loc'] else _CHARACTERS}, got {first['input']!r:.80}"
    else:
        message = validation_message(first)
    more = f" (and {len(others)} more)" if others else ""
    return f"{option or f'{origin}: {key}'}: {message}{more}"
