"""The training loop of one run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LRScheduler

from bnkit.data import Splits, batches
from bnkit.experiments.callbacks import BatchDone, EventHandler, Measuring
from bnkit.experiments.networks import is_built_in
from bnkit.experiments.plan import Run
from bnkit.experiments.records.example_scores import ExampleScores
from bnkit.experiments.records.run_epochs_file import Epoch
from bnkit.experiments.training.augmentations import Augmentation
from bnkit.experiments.training.constant_baseline import ConstantBaseline
from bnkit.experiments.training.cuda_graph import CudaGraphRecorder, GraphedStep
from bnkit.experiments.training.device import PeakMemory, now
from bnkit.experiments.training.distributed import SINGLE_PROCESS, Processes, local_batch_norm
from bnkit.experiments.training.evaluation import (
    EpochMetrics,
    MetricsSum,
    evaluate,
    evaluate_with_population_statistics,
    finite_or_none,
)
from bnkit.experiments.training.instrumentation import StepInstrumentation
from bnkit.experiments.training.learning_task import Task, TrainingStep
from bnkit.experiments.training.optimizers import make_optimizer, make_schedule
from bnkit.model import batch_norms
from bnkit.model.instrument.layer_instrumentation import LayerInstrumentation
from bnkit.seeding import derived_seed, seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Reading the loss waits for the device: on a CPU it is read every few steps, which is reproducible; on a GPU by time.
_STEPS_BETWEEN_CHECKS = 32
_SECONDS_BETWEEN_CHECKS = 1.0


@dataclass
class Training:
    """The state of a run in training, which a checkpoint restores."""

    model: nn.Module
    optimizer: optim.Optimizer
    schedule: LRScheduler | None
    example_scores: ExampleScores | None = None  # the last epoch's scores on each test example

    @classmethod
    def of(cls, run: Run, model: nn.Module, examples: int) -> Training:
        """The initial state of ``run``, whose network is ``model``, with ``examples`` training examples."""
        optimizer = make_optimizer(model.parameters(), run.settings)
        batch_size = run.settings.batch_size
        steps = examples // batch_size if run.drops_last(examples) else math.ceil(examples / batch_size)
        return cls(model, optimizer, make_schedule(optimizer, run.settings, steps * run.epochs))


def train(
    run: Run,
    training: Training,
    parts: Splits,
    task: Task,
    after: Epoch | None,
    callback: EventHandler,
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[Epoch]:
    """Train for the epochs of ``run`` that follow ``after``, and yield the results of each.

    The random states at the start of each epoch depend only on the seed and its number, so that a resumed run equals an
    uninterrupted one. A non-finite loss ends the run: its last epoch has no loss.

    Args:
        run: The run to train.
        training: Its network and optimizer in their state after ``after``; changed in place.
        parts: The data, on the device of the network.
        task: The loss, the metric and the training step.
        after: The results of the last complete epoch; None at the beginning.
        callback: Receives an event for every step and every measurement.
        processes: The processes that train it together; all yield the same results, except for the durations.
    """
    model = training.model
    step = _choose_step(run, task, parts.train.device, processes)
    loop = _Loop(run, training, processes.distributed_model(model), parts, task, step, callback, processes)
    layer_instrumentation = LayerInstrumentation(model) if run.observe else None
    run_duration = after.run_duration if after else 0.0
    steps = (after.steps or 0) if after else 0
    for epoch in range(after.epoch + 1 if after else 1, run.epochs + 1):
        instrumentation = StepInstrumentation(run, model, training.optimizer, task.loss, steps, layer_instrumentation)
        # Networks in different processes draw different random numbers for their shares of a batch.
        with seeded(run.seed, "epoch", epoch, *([processes.rank] if processes.rank else [])):
            trained = loop.train_epoch(epoch, instrumentation)
        steps = instrumentation.steps
        run_duration += trained.duration
        diverged = trained.metrics.loss is None
        measured = _Evaluation() if diverged else loop.evaluate(is_last=epoch == run.epochs)
        training.example_scores = measured.example_scores
        yield Epoch(
            epoch=epoch,
            loss=trained.metrics.loss,
            accuracy=trained.metrics.accuracy,
            validation_loss=measured.validation.loss,
            validation_accuracy=measured.validation.accuracy,
            test_loss=measured.test.loss,
            test_accuracy=measured.test.accuracy,
            test_accuracy_population=measured.population.accuracy,
            gradient_norm=trained.gradient_norm,
            epoch_duration=trained.duration,
            run_duration=run_duration,
            examples_per_second=trained.examples / trained.duration if trained.duration > 0 else None,
            metric=trained.metrics.metric,
            validation_metric=measured.validation.metric,
            test_metric=measured.test.metric,
            test_metric_population=measured.population.metric,
            steps=steps,
            backward_bytes=instrumentation.backward_bytes,
            layers=instrumentation.layers,
            landscape=instrumentation.landscape,
            peak_memory_bytes=trained.peak_memory_bytes,
            training_loss=measured.training.loss,
            training_accuracy=measured.training.accuracy,
            training_metric=measured.training.metric,
            answers=trained.metrics.answers,
            test_answers=measured.test.answers,
            test_constant=measured.constant_score,
        )
        if diverged:
            return


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` examples in an epoch, the same for every network; int64, on the CPU."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class _TrainedEpoch:
    metrics: EpochMetrics
    gradient_norm: float | None
    duration: float
    examples: int
    peak_memory_bytes: int | None


class _Evaluation(NamedTuple):
    training: EpochMetrics = EpochMetrics()
    validation: EpochMetrics = EpochMetrics()
    test: EpochMetrics = EpochMetrics()
    population: EpochMetrics = EpochMetrics()
    constant_score: float | None = None

    @property
    def example_scores(self) -> ExampleScores | None:
        """The score of each test example, if it is kept and finite."""
        moving_average, population = (_finite_array(evaluation.scores) for evaluation in (self.test, self.population))
        return None if moving_average is None else ExampleScores(moving_average, population)


@dataclass(frozen=True)
class _Loop:
    """The data that stay the same in all epochs; ``called`` is called instead of the network of ``training``."""

    run: Run
    training: Training
    called: nn.Module
    parts: Splits
    task: Task
    step: TrainingStep
    callback: EventHandler
    processes: Processes

    def train_epoch(self, epoch: int, instrumentation: StepInstrumentation) -> _TrainedEpoch:
        """One pass over the training data."""
        run, task, processes, split = self.run, self.task, self.processes, self.parts.train
        model, optimizer, schedule = self.training.model, self.training.optimizer, self.training.schedule
        device, parameters = split.device, list(model.parameters())
        metrics, norm_sum = MetricsSum(task, device, processes), torch.zeros((), device=device)
        examples = steps = 0

        model.train()
        memory = PeakMemory(device)
        began = checked = now(device)
        order = epoch_order(len(split), run.seed, epoch).to(device)
        stream = batches(split, run.settings.batch_size, order, run.drops_last(len(split)))
        if task.augmentation is not None:
            stream = _augmented(stream, task.augmentation, run.seed, epoch)
        for inputs, targets in stream:
            size, own = len(targets), processes.share(len(targets))
            loss_of_share = processes.scale_loss(task.loss, size)
            with instrumentation.step(inputs[own], targets[own]):
                loss, outputs = self.step(self.called, optimizer, loss_of_share, inputs[own], targets[own])
            if schedule is not None:
                schedule.step()

            with torch.no_grad():
                metrics.add(loss, outputs, targets[own], size if processes.count == 1 else size / processes.count)
                norm_sum += nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            examples += size
            steps += 1
            self.callback(BatchDone(run, epoch, size))
            if _should_check_loss(steps, checked, device, processes):
                if not metrics.is_finite:
                    break
                checked = time.perf_counter()
        duration = now(device) - began - instrumentation.seconds
        if not metrics.is_finite:
            return _TrainedEpoch(EpochMetrics(), None, duration, examples, memory.bytes)
        gradient_norm = finite_or_none(norm_sum.item() / steps)
        return _TrainedEpoch(metrics.compute(), gradient_norm, duration, examples, memory.bytes)

    def evaluate(self, *, is_last: bool) -> _Evaluation:
        """Evaluate the current network on each part of the data.

        Args:
            is_last: Whether the run ends here. Population statistics take a pass over the training part, and are evaluated
                only then, unless the run requests more.
        """
        run, model, task, parts = self.run, self.training.model, self.task, self.parts
        training = validation = population = EpochMetrics()
        constant = ConstantBaseline(task)
        if run.evaluate_training:
            self.callback(Measuring(run, "training part"))
            training = evaluate(model, parts.train, task)
        if parts.validation is not None:
            self.callback(Measuring(run, "validation"))
            validation = evaluate(model, parts.validation, task)
        self.callback(Measuring(run, "test"))
        test = evaluate(model, parts.test, task, constant, keep_scores=is_last)
        if (is_last or run.population_every_epoch) and batch_norms(model):
            self.callback(Measuring(run, "population statistics"))
            with local_batch_norm(model, self.processes):
                population = evaluate_with_population_statistics(
                    model, parts.train, parts.test, task, keep_scores=is_last
                )
        return _Evaluation(training, validation, test, population, constant.score)


def _finite_array(scores: Tensor | None) -> NDArray[Any] | None:
    return scores.cpu().numpy() if scores is not None and bool(scores.isfinite().all()) else None


def _choose_step(run: Run, task: Task, device: torch.device, processes: Processes) -> TrainingStep:
    """The training step of ``run``: that of its task, recorded and replayed on a GPU if possible and faster."""
    known = task.is_default and is_built_in(run.network) and not (run.observe or run.landscape)
    replayed = known and processes.count == 1 and device.type == "cuda"
    return GraphedStep(CudaGraphRecorder(device)) if replayed else task.training_step


def _should_check_loss(steps: int, checked: float, device: torch.device, processes: Processes) -> bool:
    """Whether to check now that the loss is finite: all processes of a run must agree on the answer."""
    if device.type == "cuda" and processes.count == 1:
        return time.perf_counter() - checked > _SECONDS_BETWEEN_CHECKS
    return steps % _STEPS_BETWEEN_CHECKS == 0


def _augmented(
    stream: Iterator[tuple[Tensor, Tensor]], augmentation: Augmentation, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for step, (inputs, targets) in enumerate(stream):
        # Seeded for each batch: networks with random layers (dropout) must get the same batches as others.
        with seeded(seed, "augmentation", epoch, step):
            batch = augmentation(inputs, targets)
        yield batch
