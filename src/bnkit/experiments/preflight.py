"""Everything is tried once before anything is trained: batch sizes, networks, outputs, loss, metric and training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import FactoryError, SettingsError
from bnkit.experiments.networks import NetworkSource
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.settle import Materials
from bnkit.experiments.task import Task, training_step
from bnkit.seeding import seeded


def try_out(plan: Plan, materials: Materials) -> None:
    """Build every network once and run it on two examples, so that a mistake shows before anything is trained.

    Raises:
        BnkitError: A batch size that does not go with the data, a factory that fails, or a network that does not fit
            the data.
    """
    for run in {(run.settings, run.network): run for run in plan}.values():
        _check_batch_size(run, len(materials.parts(run).train))
    seen: set[object] = set()
    for run in plan:
        network = materials.networks[run.network.key]
        built_by = (
            run.network.key,
            *(getattr(run.settings, name) for name in ("activation", "depth", "width", "dropout", "order", "init")),
        )
        if built_by not in seen:
            seen.add(built_by)
            _try_network(run, network, materials)


def _try_network(run: Run, network: NetworkSource, materials: Materials) -> None:
    data = materials.data
    arguments = (data.input_shape, data.out_features, run.settings, run.seed)
    model = network.build(*arguments)
    if network.made(*arguments) is network.made(*arguments):
        raise FactoryError(
            f"the factory of {run.network.key} returned the same network twice; expected a new one each time, so that no "
            "weights leak between runs"
        )
    inputs, targets = (tensor.cpu() for tensor in materials.parts(run).train.head(2))
    try:
        with torch.no_grad():
            output = model.eval()(inputs)
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"network {run.network.key} raised {type(error).__name__} on inputs of shape {tuple(inputs.shape)}: {error}"
            + ("; if the channels stand last, give inputs.permute(0, 3, 1, 2)" if data.channels_stand_last else "")
        ) from error
    _check_output(output, run.network.key, materials)
    if not materials.task.is_usual:
        with seeded(run.seed, "try"):
            try_task(materials.task, model, inputs, targets, run.network.key)


def _check_output(output: object, network: str, materials: Materials) -> None:
    """Whether the built-in loss and accuracy can be had from the output for two examples."""
    data, task = materials.data, materials.task
    if task.has_own("loss") and task.right is None:
        return
    if data.classes is None:
        expected = (2, *data.target_shape)
        meaning = "as the targets"
        suits = isinstance(output, Tensor) and tuple(output.shape) == expected
    else:
        expected = (2, data.classes, *data.target_shape)
        meaning = "a score for each class"
        suits = (
            isinstance(output, Tensor)
            and output.dim() == len(expected)
            and output.shape[1] >= data.classes
            and (output.shape[0], *output.shape[2:]) == (2, *data.target_shape)
        )
    if not suits:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        remedy = data.remedy(tuple(output.shape)) if isinstance(output, Tensor) else ""
        raise FactoryError(f"network {network} returned {got} for 2 examples; expected {expected}, {meaning}{remedy}")


def _check_batch_size(run: Run, examples: int) -> None:
    batch_size = run.settings.batch_size
    last = examples % batch_size
    if batch_size < run.processes or (0 < last < run.processes and not run.drop_last):
        raise SettingsError(
            f"grid: batch_size={batch_size} leaves a last batch of {last or batch_size} of {examples} training examples for "
            f"{run.processes} processes; set drop_last = true, or another batch_size or validation"
        )
    if batch_size > examples:
        raise SettingsError(
            f"grid: batch_size={batch_size} is larger than the {examples} training examples of {run.data}; expected at "
            f"most {examples}"
        )
    if batch_size > 1 and examples % batch_size == 1 and not run.drop_last:
        raise SettingsError(
            f"grid: batch_size={batch_size} leaves a last batch of one of {examples} training examples, which has no "
            "deviation to normalise by; set drop_last = true, or another batch_size or validation"
        )


def try_task(task: Task, model: nn.Module, inputs: Tensor, targets: Tensor, network: str) -> None:
    """Go once through everything that is done to a batch, so that a mistake shows before anything is trained.

    Args:
        task: What is tried.
        model: A network to throw away.
        inputs, targets: A few examples, on the device of ``model``.
        network: What messages call it.

    Raises:
        FactoryError: Something raises, or returns something else than it should.
    """

    def attempt(key: str, call: Callable[[], Any], expected: str, suits: Callable[[Any], bool]) -> Any:
        try:
            returned = call()
        except Exception as error:
            raise FactoryError(
                f"{key} raised {type(error).__name__} on {len(inputs)} examples with network {network}: {error}; "
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
            lambda made: (
                isinstance(made, tuple)
                and len(made) == 2
                and all(isinstance(part, Tensor) and len(part) == len(inputs) for part in made)
                and made[0].shape == inputs.shape
            ),
        )
    outputs = model.eval()(inputs).detach().requires_grad_()
    attempt(
        "loss",
        lambda: task.loss(outputs, targets),
        "the mean over the batch as a tensor of 0 dimensions that depends on the outputs",
        lambda made: isinstance(made, Tensor) and made.dim() == 0 and made.requires_grad,
    )
    if task.metric is not None:
        metric = task.metric
        attempt("metric", lambda: metric(outputs.detach(), targets), "one number", _is_a_number)
    if task.training_step is not training_step:
        attempt(
            "training_step",
            lambda: task.training_step(
                model.train(), torch.optim.SGD(model.parameters(), lr=0.0), task.loss, inputs, targets
            ),
            "(loss, outputs): a tensor of 0 dimensions, and the outputs of the batch",
            lambda made: (
                isinstance(made, tuple)
                and len(made) == 2
                and all(isinstance(part, Tensor) for part in made)
                and made[0].dim() == 0
                and len(made[1]) == len(inputs)
            ),
        )


def _is_a_number(value: object) -> bool:
    return (isinstance(value, Tensor) and value.numel() == 1) or (
        isinstance(value, (int, float)) and not isinstance(value, bool)
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_described(part) for part in value)})"
    return f"a {type(value).__name__}"
