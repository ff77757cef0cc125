"""The training of one run: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LRScheduler

from bnkit.data import Split, Splits, batches
from bnkit.experiments.callbacks import Callback
from bnkit.experiments.networks import is_built_in
from bnkit.experiments.plan import Run
from bnkit.experiments.records.record import Epoch
from bnkit.experiments.run_seeding import epoch_order
from bnkit.experiments.training.augmentations import Augmentation
from bnkit.experiments.training.constant_answer import ConstantAnswer
from bnkit.experiments.training.cuda_graph import CudaGraphRecorder, GraphedStep
from bnkit.experiments.training.device import PeakMemory, now
from bnkit.experiments.training.distributed import SINGLE_PROCESS, Processes, local_batch_norm
from bnkit.experiments.training.instrumentation import StepInstrumentation
from bnkit.experiments.training.optimizers import make_optimizer, make_schedule
from bnkit.experiments.training.task import Task, TrainingStep
from bnkit.model import batch_norms, normalising_by, population_statistics
from bnkit.model.instrument.layer_instrumentation import LayerInstrumentation
from bnkit.seeding import seeded

# Evaluation has no gradients to keep, so that its batches may be larger than those of training.
_EVALUATION_BATCH = 1000
# Reading the loss waits for the device: on a CPU it is read by steps, which repeats to the bit; on a GPU by seconds.
_STEPS_BETWEEN_CHECKS = 32
_SECONDS_BETWEEN_CHECKS = 1.0


@dataclass
class Training:
    """What moves while a run trains, and has to be restored to go on."""

    model: nn.Module
    optimizer: optim.Optimizer
    schedule: LRScheduler | None

    @classmethod
    def of(cls, run: Run, model: nn.Module, examples: int) -> Training:
        """The beginning of ``run``, whose network is ``model``, on so many training examples."""
        optimizer = make_optimizer(model.parameters(), run.settings)
        batch_size = run.settings.batch_size
        steps = examples // batch_size if run.drops_last(examples) else math.ceil(examples / batch_size)
        return cls(model, optimizer, make_schedule(optimizer, run.settings, steps * run.epochs))


class EpochMetrics(NamedTuple):
    """The figures of a part; None for those that it has not."""

    loss: float | None = None
    accuracy: float | None = None
    metric: float | None = None
    answers: int | None = None


class _Tally:
    """Adds up the figures of a part, batch by batch, and waits for the device only at the end."""

    def __init__(self, task: Task, device: torch.device, processes: Processes = SINGLE_PROCESS) -> None:
        self._task, self._processes = task, processes
        self._loss, self._right = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self._examples = self._answers = 0
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor, weight: float | None = None) -> None:
        """Count a batch whose mean loss is ``loss``, and counts ``weight`` times, or once for each target; no gradients."""
        self._loss += loss * (len(targets) if weight is None else weight)  # a short last batch counts by its size
        self._examples += len(targets)
        if self._task.right is not None:
            right = self._task.right(outputs, targets)
            self._right += right.sum()
            self._answers += right.numel()
        if self._task.metric is not None:
            self._outputs.append(outputs.detach())
            self._targets.append(targets)

    @property
    def is_finite(self) -> bool:
        """Whether the loss has been finite so far. Waits for the device."""
        return math.isfinite(self._processes.all_reduce(self._loss).item())

    def measured(self) -> EpochMetrics:
        """The figures of all that was added; a loss or a metric that is not finite is None."""
        metric = None
        if self._task.metric is not None:
            everything = (self._processes.all_gather_rows(torch.cat(part)) for part in (self._outputs, self._targets))
            metric = _finite(float(self._task.metric(*everything)))
        counted = torch.stack(
            [self._loss, self._right, self._loss.new_tensor(self._examples), self._loss.new_tensor(self._answers)]
        )
        loss, right, examples, answers = self._processes.all_reduce(counted).tolist()
        return EpochMetrics(
            _finite(loss / examples), right / answers if answers else None, metric, int(answers) or None
        )


@dataclass(frozen=True)
class _Learned:
    figures: EpochMetrics
    gradient_norm: float | None
    duration: float
    examples: int
    peak_memory_bytes: int | None


def train(
    run: Run,
    training: Training,
    parts: Splits,
    task: Task,
    after: Epoch | None,
    callback: Callback,
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[Epoch]:
    """Train for the epochs of ``run`` that follow ``after``, and yield the figures of each.

    Each epoch starts from random states that follow from the seed and its number alone, so that a run that goes on from
    epoch 7 is the run that was never interrupted. A loss that is not finite ends the run: its last epoch has no loss.

    Args:
        run: What is trained.
        training: Its network and optimizer, as they are after ``after``; changed in place.
        parts: The data, on the device of the network.
        task: What is learned.
        after: The figures of the last epoch that is done; None at the beginning.
        callback: Told of every step, and of what is measured.
        processes: That train it together; what is yielded is the same in each, but for the durations.
    """
    model, trained = training.model, processes.distributed_model(training.model)
    step = _step_of(run, task, parts.train.device, processes)
    watch = LayerInstrumentation(model) if run.observe else None
    run_duration = after.run_duration if after else 0.0
    steps = (after.steps or 0) if after else 0
    for epoch in range(after.epoch + 1 if after else 1, run.epochs + 1):
        instrumentation = StepInstrumentation(run, model, training.optimizer, task.loss, steps, watch)
        # What a network draws for its share of a batch is not what another one draws for another.
        with seeded(run.seed, "epoch", epoch, *([processes.rank] if processes.rank else [])):
            learned = _learn(
                run, training, trained, parts.train, task, step, epoch, callback, processes, instrumentation
            )
        steps = instrumentation.steps
        run_duration += learned.duration
        diverged = learned.figures.loss is None
        training_part = validation = test = population = EpochMetrics()
        constant = ConstantAnswer(task)
        if not diverged:
            if run.evaluate_training:
                callback.measuring(run, "training part")
                training_part = _measure(model, parts.train, task)
            if parts.validation is not None:
                callback.measuring(run, "validation")
                validation = _measure(model, parts.validation, task)
            callback.measuring(run, "test")
            test = _measure(model, parts.test, task, constant)
            if batch_norms(model):
                callback.measuring(run, "population statistics")
                with local_batch_norm(model, processes):
                    population = _measure_under_population(model, parts, task)
        yield Epoch(
            epoch=epoch,
            loss=learned.figures.loss,
            accuracy=learned.figures.accuracy,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            test_accuracy_population=population.accuracy,
            gradient_norm=learned.gradient_norm,
            epoch_duration=learned.duration,
            run_duration=run_duration,
            examples_per_second=learned.examples / learned.duration if learned.duration > 0 else None,
            metric=learned.figures.metric,
            validation_metric=validation.metric,
            test_metric=test.metric,
            test_metric_population=population.metric,
            steps=steps,
            backward_bytes=instrumentation.backward_bytes,
            layers=instrumentation.layers,
            landscape=instrumentation.landscape,
            peak_memory_bytes=learned.peak_memory_bytes,
            training_loss=training_part.loss,
            training_accuracy=training_part.accuracy,
            training_metric=training_part.metric,
            answers=learned.figures.answers,
            test_answers=test.answers,
            test_constant=constant.score,
        )
        if diverged:
            return


def _learn(
    run: Run,
    training: Training,
    trained: nn.Module,
    examples: Split,
    task: Task,
    step: TrainingStep,
    epoch: int,
    callback: Callback,
    processes: Processes,
    instrumentation: StepInstrumentation,
) -> _Learned:
    """One pass over the training data; ``trained`` is what is called for the network of ``training``."""
    model, optimizer, schedule = training.model, training.optimizer, training.schedule
    device = examples.device
    parameters = list(model.parameters())
    tally, norm_sum = _Tally(task, device, processes), torch.zeros((), device=device)
    seen = steps = 0

    model.train()
    memory = PeakMemory(device)
    began = checked = now(device)
    order = epoch_order(len(examples), run.seed, epoch).to(device)
    stream = batches(examples, run.settings.batch_size, order, run.drops_last(len(examples)))
    for inputs, targets in (
        stream if task.augmentation is None else _augmented(stream, task.augmentation, run.seed, epoch)
    ):
        size, own = len(targets), processes.share(len(targets))
        weighted = processes.scale_loss(task.loss, size)
        with instrumentation.step(inputs[own], targets[own]):
            loss, outputs = step(trained, optimizer, weighted, inputs[own], targets[own])
        if schedule is not None:
            schedule.step()

        with torch.no_grad():
            tally.add(loss, outputs, targets[own], size if processes.count == 1 else size / processes.count)
            norm_sum += nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        seen += size
        steps += 1
        callback.batch_done(run, epoch, size)
        if _is_to_check(steps, checked, device, processes):
            if not tally.is_finite:
                break
            checked = time.perf_counter()
    duration = now(device) - began - instrumentation.seconds
    if not tally.is_finite:
        return _Learned(EpochMetrics(), None, duration, seen, memory.bytes)
    return _Learned(tally.measured(), _finite(norm_sum.item() / steps), duration, seen, memory.bytes)


def _step_of(run: Run, task: Task, device: torch.device, processes: Processes) -> TrainingStep:
    """How a step of ``run`` is taken: as its task says, on a GPU recorded and replayed where that can be and is faster."""
    known = task.is_default and is_built_in(run.network) and not (run.observe or run.landscape)
    replayed = known and processes.count == 1 and device.type == "cuda"
    return GraphedStep(CudaGraphRecorder(device)) if replayed else task.training_step


def _is_to_check(steps: int, checked: float, device: torch.device, processes: Processes) -> bool:
    """Whether to look if the loss is finite: all processes of a run must come to the same answer."""
    if device.type == "cuda" and processes.count == 1:
        return time.perf_counter() - checked > _SECONDS_BETWEEN_CHECKS
    return steps % _STEPS_BETWEEN_CHECKS == 0


def _augmented(
    stream: Iterator[tuple[Tensor, Tensor]], augmentation: Augmentation, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for step, (inputs, targets) in enumerate(stream):
        # From a seed of the batch's own: a network that draws (dropout) is to get the same batches as one that does not.
        with seeded(seed, "augmentation", epoch, step):
            batch = augmentation(inputs, targets)
        yield batch


def _measure(model: nn.Module, examples: Split, task: Task, constant: ConstantAnswer | None = None) -> EpochMetrics:
    """The figures of ``examples`` in evaluation mode, and those of a constant answer."""
    tally = _Tally(task, examples.device)
    model.eval()
    with torch.no_grad():
        for inputs, targets in batches(examples, _EVALUATION_BATCH):
            outputs = model(inputs)
            tally.add(task.loss(outputs, targets), outputs, targets)
            if constant is not None:
                constant.add(outputs, targets)
    model.train()
    return tally.measured()


def _measure_under_population(model: nn.Module, parts: Splits, task: Task) -> EpochMetrics:
    """The figures of the test set with the statistics of the training part in place of the moving average."""
    statistics = population_statistics(model, _without_a_batch_of_one(parts.train))
    if not statistics:
        return EpochMetrics()
    with normalising_by(model, statistics):
        return _measure(model, parts.test, task)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _without_a_batch_of_one(examples: Split) -> Iterator[Tensor]:
    drop_last = len(examples) % _EVALUATION_BATCH == 1 and len(examples) > 1
    # In a shuffle of their own: batches of one class each would not normalise as those of training do.
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(examples), generator=generator).to(examples.device)
    return (inputs for inputs, _ in batches(examples, _EVALUATION_BATCH, order, drop_last))
