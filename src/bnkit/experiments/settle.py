"""From what a user asked for to what will be run: names looked up, "auto" decided, everything tried once before it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bnkit.data import DataSet, Examples, Parts, Streamed, load, prepare
from bnkit.errors import DataError, FactoryError, SettingsError
from bnkit.experiments.experiment import GIVEN, Experiment, Settled
from bnkit.experiments.networks import NetworkSource, sources
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.randomness import seeded
from bnkit.experiments.targets import find, is_target
from bnkit.experiments.task import Task, task_of, try_task


@dataclass
class Materials:
    """What the runs of a plan are made from.

    Attributes:
        networks: By key.
        data: The data set.
        task: What is learned.
    """

    networks: Mapping[str, NetworkSource]
    data: DataSet
    task: Task = field(default_factory=Task)
    _parts: dict[tuple[object, ...], Parts] = field(default_factory=dict)

    @property
    def in_memory(self) -> bool:
        """Whether the data are held in memory, so that ``num_workers`` has nothing to load."""
        return isinstance(self.data.train, Examples)

    def parts(self, run: Run) -> Parts:
        """The data as ``run`` trains on them; prepared once for all runs that agree."""
        key = (run.settings.trainset, run.validation, run.settings.device, run.settings.num_workers)
        if key not in self._parts:
            self._parts = {key: prepare(self.data, *key)}
        return self._parts[key]


def settle(
    experiment: Experiment,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
    before: Settled | None = None,
    threads: int = 0,
    processes: int = 1,
) -> tuple[Plan, Materials]:
    """The plan of ``experiment``, and what its runs are made from.

    Args:
        experiment: What was asked for.
        networks, data, functions: Instead of those that ``experiment`` names; functions by "loss", "metric",
            "training_step" and "augmentation".
        before: What was settled when the results folder was begun: threads and the meaning of device "auto" are kept,
            so that figures do not change in the middle because another machine goes on.
        threads: Of each run, where neither the experiment nor ``before`` says; 0 for as many as torch uses now.
        processes: How many train one run together.

    Raises:
        BnkitError: Something that it names is not there, or cannot be used.
    """
    found = networks if networks is not None else sources(experiment.networks, experiment.arms)
    data = data if data is not None else data_called(experiment.data)
    data = data.reduced(experiment.train_examples, experiment.test_examples)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    if before is not None and (before.device == "cpu" or torch.cuda.is_available()):
        automatic = before.device
    for device in experiment.grid.device:
        _check_device(device)
    task = task_of(experiment, data, functions)
    settled = Settled(
        threads=experiment.threads or (before.threads if before else 0) or threads or torch.get_num_threads(),
        device=automatic,
        data=data.digest,
        networks=tuple(source.identity for source in found.values()),
        task=task.identity,
        processes=processes,
    )
    return plan(experiment.model_copy(update={"settled": settled})), Materials(found, data, task)


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
        raise FactoryError(f"network {network} returned {got} for 2 examples; expected {expected}, {meaning}")


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


def _check_device(name: str) -> None:
    if not name.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise SettingsError(f"grid: device={name}, but this machine has no usable GPU; expected auto or cpu")
    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise SettingsError(f"grid: device={name}, but this machine has {torch.cuda.device_count()} GPUs, from cuda:0")
