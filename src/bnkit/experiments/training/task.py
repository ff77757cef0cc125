"""What is learned: the loss, what a network is judged by, how a step is taken, and what is done to a batch before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bnkit.data import DataSet
from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.experiment import DEFAULT_TASK, Experiment, TaskIdentity
from bnkit.experiments.fingerprint import FingerprintedFunction, fingerprint_of
from bnkit.experiments.training.augmentations import AUGMENTATIONS, Augmentation
from bnkit.experiments.training.losses import Loss, NamedLoss, find_named_loss, is_loss_name, losses_for
from bnkit.experiments.training.metrics import METRICS, Metric, is_correct
from bnkit.factories import PASSED_OBJECT, is_factory_name, load_factory

# (model, optimizer, loss, inputs, targets) -> (the loss, the outputs), after a step of the optimizer.
TrainingStep = Callable[[nn.Module, Optimizer, Loss, Tensor, Tensor], tuple[Tensor, Tensor]]


def training_step(
    model: nn.Module, optimizer: Optimizer, loss: Loss, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of a batch, 0-dimensional, and the outputs, after a step of the optimizer down that loss's gradient."""
    outputs = model(inputs)
    value = loss(outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value, outputs


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        identity: What stays the same about it from call to call.
        loss: Of outputs and targets; what is trained down, and measured everywhere.
        right: Which answers are right, where there are answers; None where there is no accuracy.
        metric: What networks are judged by, if not accuracy.
        training_step: How a step is taken.
        augmentation: What happens to a training batch before the step.
        named_loss: The loss of ``torch.nn.functional`` that ``loss`` is; None where it is a user's own.
    """

    identity: TaskIdentity = DEFAULT_TASK
    loss: Loss = functional.cross_entropy
    right: Callable[[Tensor, Tensor], Tensor] | None = is_correct
    metric: Metric | None = None
    training_step: TrainingStep = training_step
    augmentation: Augmentation | None = None
    named_loss: NamedLoss | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is to tell classes apart by cross-entropy, in plain steps."""
        return self.identity == DEFAULT_TASK

    def has_own(self, part: str) -> bool:
        """Whether "loss", "metric", "training_step" or "augmentation" is somebody's own function."""
        return "#" in getattr(self.identity, part)


def resolve_task(experiment: Experiment, data: DataSet, given: Mapping[str, Any] | None = None) -> Task:
    """What ``experiment`` asks to be learned from ``data``.

    Args:
        experiment: Names the parts.
        data: Decides what "auto" means: its targets are classes or values.
        given: Functions by "loss", "metric", "training_step" and "augmentation", in place of those it names.

    Raises:
        SettingsError: A name means nothing, or does not go with the targets.
        FactoryError: Somebody's own function cannot be used.
    """
    given = {} if given is None else {key: value for key, value in given.items() if value is not None}
    losses = losses_for(data)

    loss_name, found = _part(experiment.loss, "loss", losses, given, {"auto": next(iter(losses))})
    named = found if isinstance(found, NamedLoss) else find_named_loss(found)
    if isinstance(found, NamedLoss):
        loss, right = found.function, found.right
    else:
        loss, right = found, is_correct if data.classes is not None else None

    metrics: dict[str, Metric | None] = {**METRICS} if right is None else {"accuracy": None, **METRICS}
    metric_name, metric = _part(experiment.metric, "metric", metrics, given, {"auto": next(iter(metrics))})
    # torchmetrics' word; None there means that neither way is better.
    goal: Literal["minimize", "maximize"] = (
        "minimize" if getattr(metric, "higher_is_better", True) is False else "maximize"
    )
    if metric_name in METRICS and named is not None and named.link is not None:
        metric = _of_values(METRICS[metric_name], named.link)
    step_name, step = _part(experiment.training_step, "training_step", {"default": training_step}, given)
    augmentation_name, augmentation = _part(
        experiment.augmentation, "augmentation", {"none": None, **AUGMENTATIONS}, given
    )
    return Task(
        TaskIdentity(
            loss=loss_name,
            metric=metric_name,
            goal=goal,
            training_step="" if step is training_step else step_name,
            augmentation="" if augmentation is None else augmentation_name,
        ),
        loss,
        right,
        metric,
        step,
        augmentation,
        named,
    )


def _of_values(metric: Metric, link: Callable[[Tensor], Tensor]) -> Metric:
    """``metric`` of the values that outputs stand for."""
    return lambda outputs, targets: metric(link(outputs), targets)


def _part(
    name: str, key: str, known: Mapping[str, Any], given: Mapping[str, Any], instead: Mapping[str, str] | None = None
) -> tuple[str, Any]:
    """The identity and the function of one part of a task."""
    name = (instead or {}).get(name, name)
    if key in given:
        # Asked before its identity: what cannot be called has no code to tell it by.
        named = given[key] if isinstance(given[key], FingerprintedFunction) else None
        function = _callable(named.value if named else given[key], key, key)
        return named.identity if named else fingerprint_of(function), function
    if name in known:
        return name, known[name]
    if is_factory_name(name):
        target = load_factory(name)
        return f"{name}#{target.digest[:12]}", _callable(target.value, key, name)
    if name == PASSED_OBJECT:
        raise SettingsError(f"{key} was a function given to bnkit.compare; call that again, with the same function")
    why = ""
    if (key == "loss" and is_loss_name(name)) or (key, name) == ("metric", "accuracy"):
        of_classes = key == "loss" and "mse_loss" not in known
        why = ", as the targets are class numbers" if of_classes else ", as the targets are floating"
    raise SettingsError(
        f"{key}: {name!r} is unknown here; expected one of {', '.join(known)}, or file.py:function{why}"
    )


def _callable(value: object, key: str, origin: str) -> Callable[..., Any]:
    if not callable(value):
        raise FactoryError(f"{key}: {origin} is a {type(value).__name__}; expected a function")
    return value
