"""Try batch sizes, networks, outputs, loss, metric and training step once, before hours of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.loss_mismatch import loss_mismatch
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.resolve_experiment import Components
from bnkit.experiments.training.device import computing_on
from bnkit.experiments.training.learning_task import Task, training_step
from bnkit.experiments.training.losses import is_binary_loss
from bnkit.message_parts import plural
from bnkit.seeding import seeded

# The settings that a network depends on.
_NETWORK_SETTINGS = ("activation", "depth", "width", "dropout", "order", "init")
# Examples whose outputs are compared with the loss.
_EXAMPLES = 64


def check_plan(plan: Plan, components: Components, *, training: bool = True) -> tuple[str, ...]:
    """Build every network, run it on a few examples, and train it for one batch of each size in the plan.

    Args:
        plan: The runs.
        components: The networks, the data and the task.
        training: Whether to try training. If not, an error in training ends each of its runs as failed.

    Returns:
        Warnings for the user, a sentence each.

    Raises:
        BnkitError: If a batch size does not fit the data, a factory fails, or a network does not fit the data or cannot be
            trained.
    """
    sizes: dict[tuple[object, ...], dict[int, Run]] = {}
    # The checks do not depend on the seed, and a plan may have tens of thousands of runs.
    for run in (run for run in plan if run.seed == plan.runs[0].seed):
        examples = len(components.parts(run).train)
        _check_batch_size(run, examples)
        of_network = sizes.setdefault(
            (run.network.key, *(getattr(run.settings, name) for name in _NETWORK_SETTINGS)), {}
        )
        for size in _sizes(run, examples):
            of_network.setdefault(size, run)
    warnings: dict[str, str | None] = {}
    for of_network in sizes.values():
        run = next(iter(of_network.values()))
        model = _check_network(run, components)
        if run.network.key not in warnings:
            warnings[run.network.key] = _check_loss_input(run, components, model)
    for of_network in sizes.values() if training else ():
        for size, run in sorted(of_network.items(), key=lambda item: item[0]):
            _check_training(run, size, components)
    return tuple(warning for warning in warnings.values() if warning is not None)


def _sizes(run: Run, examples: int) -> set[int]:
    """The batch sizes of an epoch."""
    last = examples % run.settings.batch_size
    return {run.settings.batch_size, *([last] if last and not run.drops_last(examples) else [])}


def _check_network(run: Run, components: Components) -> nn.Module:
    """A network like that of ``run``, after it has run on two examples."""
    network, data = components.networks[run.network.key], components.data
    model = components.build(run)
    arguments = (data.input_shape, data.out_features, run.settings, run.seed, components.example(run))
    if network.build_from_factory(*arguments) is network.build_from_factory(*arguments):
        raise FactoryError(
            f"the factory of {run.network.key} returned the same network twice; expected a new one each time, so that no "
            "weights leak between runs"
        )
    inputs, targets = _first_examples(run, components, 2)
    try:
        with torch.no_grad(), seeded(run.seed, "try"):
            output = model.eval()(inputs.clone())
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"network {run.network.key} raised {type(error).__name__} on {_kind(inputs)}inputs of shape "
            f"{tuple(inputs.shape)}: {' '.join(str(error).split())}; expected a network for the inputs of {data.name}"
            + (", or, if their channels stand last, inputs.permute(0, 3, 1, 2)" if data.channels_stand_last else "")
        ) from error
    _check_output(output, targets, run.network.key, components)
    if not components.task.is_default:
        with seeded(run.seed, "try"):
            check_task(components.task, model, inputs, targets, run.network.key)
    return model


def _check_loss_input(run: Run, components: Components, model: nn.Module) -> str | None:
    """A warning if the outputs of the network of ``run`` do not fit the loss; otherwise None."""
    loss = components.task.named_loss
    if loss is None:
        return None
    inputs, targets = _first_examples(run, components, _EXAMPLES)
    with seeded(run.seed, "try"):
        return loss_mismatch(run.network.key, loss, model, inputs, targets)


def _check_training(run: Run, size: int, components: Components) -> None:
    """Train a new network on one batch on the device of the run: some networks fail only in training mode."""
    task, device = components.task, torch.device(run.settings.device)
    with computing_on(device), seeded(run.seed, "try", size):
        inputs, targets = components.parts(run).train.head(size)
        try:
            if task.augmentation is not None:
                inputs, targets = task.augmentation(inputs, targets)
            outputs = components.build(run).to(device).train()(inputs.clone())
            if task.training_step is training_step:
                task.loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
        except (Exception, SystemExit) as error:
            raise FactoryError(
                f"network {run.network.key} raised {type(error).__name__} when it was trained on a batch of {size} (grid: "
                f"batch_size={run.settings.batch_size}), and every run with such batches would: "
                f"{' '.join(str(error).split())}; expected a network that trains on all batches, or another batch_size"
            ) from error


def _first_examples(run: Run, components: Components, count: int) -> tuple[Tensor, Tensor]:
    """The first training examples of ``run``, on the CPU."""
    with seeded(0, "example"):
        inputs, targets = components.parts(run).train.head(count)
    return inputs.cpu(), targets.cpu()


def _kind(inputs: Tensor) -> str:
    return "" if inputs.is_floating_point() else "integer "


def _check_output(output: object, targets: Tensor, network: str, components: Components) -> None:
    """Raise unless the loss and the accuracy can be computed from ``output``."""
    data, task, count = components.data, components.task, len(targets)
    if task.has_user_function("loss") and task.right is None:
        return
    if data.classes is None or is_binary_loss(task.identity.loss):
        expected: tuple[int, ...] = (count, *(data.target_shape or (1,)))
        meaning = "as the targets"
        suits = isinstance(output, Tensor) and tuple(output.shape) in (expected, tuple(targets.shape))
    else:
        expected = (count, data.classes, *data.target_shape)
        meaning = "a score for each class"
        suits = (
            isinstance(output, Tensor)
            and output.dim() == len(expected)
            and output.shape[1] >= data.classes
            and (output.shape[0], *output.shape[2:]) == (count, *data.target_shape)
        )
    if not suits:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        remedy = data.suggest_fix(tuple(output.shape)) if isinstance(output, Tensor) else ""
        raise FactoryError(
            f"network {network} returned {got} for {count} examples; expected {expected}, {meaning}{remedy}"
        )


def _check_batch_size(run: Run, examples: int) -> None:
    batch_size = run.settings.batch_size
    last = 0 if run.drops_last(examples) else examples % batch_size
    if batch_size < run.processes or 0 < last < run.processes:
        raise SettingsError(
            f"grid: batch_size={batch_size} leaves a last batch of {last or batch_size} of {examples} training examples for "
            f"{run.processes} processes; set drop_last = true, or another batch_size or validation"
        )
    if batch_size > examples:
        raise SettingsError(
            f"grid: batch_size={batch_size} is larger than the {examples} training examples of {run.data}; expected at "
            f"most {examples}"
        )


def check_task(task: Task, model: nn.Module, inputs: Tensor, targets: Tensor, network: str) -> None:
    """Run the augmentation, the loss, the metric and the training step once on a batch.

    Args:
        task: The task to check.
        model: A network that is not used afterwards.
        inputs, targets: A few examples, on the device of ``model``.
        network: Its name in messages.

    Raises:
        FactoryError: If one of them raises, or returns the wrong type or shape.
    """

    def attempt(key: str, call: Callable[[], Any], expected: str, suits: Callable[[Any], bool]) -> Any:
        try:
            returned = call()
        except Exception as error:
            raise FactoryError(
                f"{key} raised {type(error).__name__} on {plural(len(inputs), 'example')} with network {network}: {error}; "
                f"expected {expected}"
            ) from error
        if not suits(returned):
            raise FactoryError(f"{key} returned {_described(returned)}; expected {expected}")
        return returned

    if task.augmentation is not None:
        augment = task.augmentation
        inputs, targets = attempt(
            "augmentation",
            lambda: augment(inputs, targets),
            f"(inputs, targets), as many of each, the inputs of shape {tuple(inputs.shape)}",
            lambda returned: (
                isinstance(returned, tuple)
                and len(returned) == 2
                and all(isinstance(part, Tensor) and len(part) == len(inputs) for part in returned)
                and returned[0].shape == inputs.shape
            ),
        )
    outputs = model.eval()(inputs).detach().requires_grad_()
    named = task.named_loss
    attempt(
        "loss" if named is None or task.has_user_function("loss") else f"loss {named.name}",
        lambda: task.loss(outputs, targets),
        "the mean over the batch as a tensor of 0 dimensions that depends on the outputs"
        if named is None
        else f"outputs that are {named.outputs.value}, and targets {named.targets.value}",
        lambda returned: isinstance(returned, Tensor) and returned.dim() == 0 and returned.requires_grad,
    )
    if task.metric is not None:
        metric = task.metric
        attempt("metric", lambda: metric(outputs.detach(), targets), "one number", _is_number)
    if task.training_step is not training_step:
        attempt(
            "training_step",
            lambda: task.training_step(
                model.train(), torch.optim.SGD(model.parameters(), lr=0.0), task.loss, inputs, targets
            ),
            "(loss, outputs): a tensor of 0 dimensions, and the outputs of the batch",
            lambda returned: (
                isinstance(returned, tuple)
                and len(returned) == 2
                and all(isinstance(part, Tensor) for part in returned)
                and returned[0].dim() == 0
                and len(returned[1]) == len(inputs)
            ),
        )


def _is_number(value: object) -> bool:
    return (isinstance(value, Tensor) and value.numel() == 1) or (
        isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_described(part) for part in value)})"
    return f"a {type(value).__name__}"
