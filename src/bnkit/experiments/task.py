"""What is learned: the loss, what a network is judged by, how a step is taken, and what is done to a batch before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bnkit.data import DataSet
from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.augmentations import AUGMENTATIONS, Augmentation
from bnkit.experiments.experiment import USUAL_TASK, Experiment, TaskIdentity
from bnkit.experiments.identity import identity_of
from bnkit.experiments.metrics import METRICS, Metric, answered, answered_yes_or_no
from bnkit.factories import GIVEN, find, is_target

# (outputs, targets) -> the mean loss over the batch, 0-dimensional.
Loss = Callable[[Tensor, Tensor], Tensor]
# (model, optimizer, loss, inputs, targets) -> (the loss, the outputs), after a step of the optimizer.
TrainingStep = Callable[[nn.Module, Optimizer, Loss, Tensor, Tensor], tuple[Tensor, Tensor]]

_OF_CLASSES: dict[str, Loss] = {"cross_entropy": functional.cross_entropy}
_OF_VALUES: dict[str, Loss] = {
    "mse_loss": functional.mse_loss,
    "l1_loss": functional.l1_loss,
    "smooth_l1_loss": functional.smooth_l1_loss,
    "huber_loss": functional.huber_loss,
    "binary_cross_entropy_with_logits": functional.binary_cross_entropy_with_logits,
}
_YES_OR_NO = "binary_cross_entropy_with_logits"


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
    """

    identity: TaskIdentity = USUAL_TASK
    loss: Loss = functional.cross_entropy
    right: Callable[[Tensor, Tensor], Tensor] | None = answered
    metric: Metric | None = None
    training_step: TrainingStep = training_step
    augmentation: Augmentation | None = None

    @property
    def is_usual(self) -> bool:
        """Whether it is to tell classes apart by cross-entropy, in plain steps."""
        return self.identity == USUAL_TASK

    def has_own(self, part: str) -> bool:
        """Whether "loss", "metric", "training_step" or "augmentation" is somebody's own function."""
        return "#" in getattr(self.identity, part)


def task_of(experiment: Experiment, data: DataSet, given: Mapping[str, Any] | None = None) -> Task:
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
    of_classes = data.classes is not None
    losses = _OF_CLASSES if of_classes else _OF_VALUES

    loss_name, loss = _part(experiment.loss, "loss", losses, given, {"auto": next(iter(losses))})
    yes_or_no = loss_name == _YES_OR_NO
    right = answered if of_classes else answered_yes_or_no if yes_or_no else None

    metrics: dict[str, Metric | None] = {**METRICS} if right is None else {"accuracy": None, **METRICS}
    metric_name, metric = _part(experiment.metric, "metric", metrics, given, {"auto": next(iter(metrics))})
    step_name, step = _part(experiment.training_step, "training_step", {"default": training_step}, given)
    augmentation_name, augmentation = _part(
        experiment.augmentation, "augmentation", {"none": None, **AUGMENTATIONS}, given
    )
    return Task(
        TaskIdentity(
            loss=loss_name,
            metric=metric_name,
            # torchmetrics' word; None there means that neither way is better.
            goal="minimize" if getattr(metric, "higher_is_better", True) is False else "maximize",
            training_step="" if step is training_step else step_name,
            augmentation="" if augmentation is None else augmentation_name,
        ),
        loss,
        right,
        metric,
        step,
        augmentation,
    )


def _part(
    name: str, key: str, known: Mapping[str, Any], given: Mapping[str, Any], instead: Mapping[str, str] | None = None
) -> tuple[str, Any]:
    """The identity and the function of one part of a task."""
    name = (instead or {}).get(name, name)
    if key in given:
        return identity_of(given[key]), _callable(given[key], key, key)
    if name in known:
        return name, known[name]
    if is_target(name):
        target = find(name)
        return f"{name}#{target.digest[:12]}", _callable(target.value, key, name)
    if name == GIVEN:
        raise SettingsError(f"{key} was a function given to bnkit.compare; call that again, with the same function")
    raise SettingsError(
        f"{key}: {name!r} is unknown here; expected one of {', '.join(known)}, or file.py:function"
        + (", as the targets are class numbers" if key == "loss" and name in _OF_VALUES else "")
        + (
            ", as the targets are floating"
            if (key, name) in (("loss", "cross_entropy"), ("metric", "accuracy"))
            else ""
        )
    )


def _callable(value: object, key: str, origin: str) -> Callable[..., Any]:
    if not callable(value):
        raise FactoryError(f"{key}: {origin} is a {type(value).__name__}; expected a function")
    return value
