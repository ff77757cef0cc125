"""The task: loss, metric, training step and augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from bnkit.data import DataSet
from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.code_fingerprint import FingerprintedFunction, fingerprint_of
from bnkit.experiments.experiment import DEFAULT_TASK, Experiment, TaskIdentity
from bnkit.experiments.training.augmentations import AUGMENTATIONS, Augmentation
from bnkit.experiments.training.losses import Loss, NamedLoss, find_named_loss, is_loss_name, losses_for
from bnkit.experiments.training.metrics import EXAMPLE_SCORES, METRICS, Metric, is_correct
from bnkit.import_user_function import PASSED_OBJECT, is_factory_name, load_factory
from bnkit.message_parts import did_you_mean

_T = TypeVar("_T")
# (model, optimizer, loss, inputs, targets) -> (the loss, the outputs), after a step of the optimizer.
TrainingStep = Callable[[nn.Module, Optimizer, Loss, Tensor, Tensor], tuple[Tensor, Tensor]]


def training_step(
    model: nn.Module, optimizer: Optimizer, loss: Loss, inputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Take a step of the optimizer on a batch, and return the loss, 0-dimensional, and the outputs."""
    outputs = model(inputs)
    value = loss(outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value, outputs


@dataclass(frozen=True)
class Task:
    """The task of a comparison.

    Attributes:
        identity: The names and fingerprints of its parts, equal in every call.
        loss: The function of outputs and targets that is minimised in training, and measured on every part of the data.
        right: Computes which answers are right; None without accuracy.
        metric: The metric of the comparison, if not accuracy.
        training_step: The function that takes a training step.
        augmentation: Applied to a training batch before the step.
        named_loss: The loss of ``torch.nn.functional`` that ``loss`` is; None for a user's own.
        example_scores: Computes the score of each example, (N,), if the metric is their mean.
    """

    identity: TaskIdentity = DEFAULT_TASK
    loss: Loss = functional.cross_entropy
    right: Callable[[Tensor, Tensor], Tensor] | None = is_correct
    metric: Metric | None = None
    training_step: TrainingStep = training_step
    augmentation: Augmentation | None = None
    named_loss: NamedLoss | None = None
    example_scores: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is classification by cross-entropy, with the default training step."""
        return self.identity == DEFAULT_TASK

    def has_user_function(self, part: str) -> bool:
        """Whether ``part`` ("loss", "metric", "training_step" or "augmentation") is a user's function."""
        return "#" in getattr(self.identity, part)


def resolve_task(experiment: Experiment, data: DataSet, overrides: Mapping[str, Any] | None = None) -> Task:
    """The task of ``experiment``, its parts looked up.

    Args:
        experiment: The experiment, which names the parts.
        data: The data; the targets determine what "auto" means.
        overrides: Functions by "loss", "metric", "training_step" and "augmentation", instead of those it names.

    Raises:
        SettingsError: If a name is unknown, or does not fit the targets.
        FactoryError: If a user's function cannot be used.
    """
    overrides = {} if overrides is None else {key: value for key, value in overrides.items() if value is not None}
    losses = losses_for(data)

    loss_name, loss_or_function = _find_part(experiment.loss, "loss", losses, overrides, {"auto": next(iter(losses))})
    named = loss_or_function if isinstance(loss_or_function, NamedLoss) else find_named_loss(loss_or_function)
    if isinstance(loss_or_function, NamedLoss):
        loss, right = loss_or_function.function, loss_or_function.right
    else:
        loss, right = loss_or_function, is_correct if data.classes is not None else None

    metrics: dict[str, Metric | None] = {**METRICS} if right is None else {"accuracy": None, **METRICS}
    metric_name, metric = _find_part(experiment.metric, "metric", metrics, overrides, {"auto": next(iter(metrics))})
    # torchmetrics' attribute; None means that neither direction is better.
    goal: Literal["minimize", "maximize"] = (
        "minimize" if getattr(metric, "higher_is_better", True) is False else "maximize"
    )
    example_scores = EXAMPLE_SCORES.get(metric_name)
    if example_scores is not None and named is not None and named.link is not None:
        metric = _with_link(METRICS[metric_name], named.link)
        example_scores = _with_link(example_scores, named.link)
    step_name, step = _find_part(experiment.training_step, "training_step", {"default": training_step}, overrides)
    augmentation_name, augmentation = _find_part(
        experiment.augmentation, "augmentation", {"none": None, **AUGMENTATIONS}, overrides
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
        example_scores,
    )


def _with_link(
    metric: Callable[[Tensor, Tensor], _T], link: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], _T]:
    """``metric`` applied to the values that the outputs represent."""
    return lambda outputs, targets: metric(link(outputs), targets)


def _find_part(
    name: str,
    key: str,
    known: Mapping[str, Any],
    overrides: Mapping[str, Any],
    instead: Mapping[str, str] | None = None,
) -> tuple[str, Any]:
    """The identity and the function of one part of a task."""
    name = (instead or {}).get(name, name)
    if key in overrides:
        # Checked before its fingerprint, because an object that cannot be called has no code.
        named = overrides[key] if isinstance(overrides[key], FingerprintedFunction) else None
        function = _require_callable(named.value if named else overrides[key], key, key)
        return named.identity if named else fingerprint_of(function), function
    if name in known:
        return name, known[name]
    if is_factory_name(name):
        target = load_factory(name)
        return f"{name}#{target.digest[:12]}", _require_callable(target.value, key, name)
    if name == PASSED_OBJECT:
        raise SettingsError(f"{key} was a function given to bnkit.compare; call that again, with the same function")
    why = ""
    if (key == "loss" and is_loss_name(name)) or (key, name) == ("metric", "accuracy"):
        of_classes = key == "loss" and "mse_loss" not in known
        why = ", as the targets are class numbers" if of_classes else ", as the targets are floating"
    raise SettingsError(
        f"{key}: {name!r} is unknown here; expected one of {', '.join(known)}, or file.py:function{why}{did_you_mean(name, known)}"
    )


def _require_callable(value: object, key: str, origin: str) -> Callable[..., Any]:
    if not callable(value):
        raise FactoryError(f"{key}: {origin} is a {type(value).__name__}; expected a function")
    return value
