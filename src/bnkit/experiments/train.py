"""The training of one run: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler

from bnkit.data import Part, Parts, batches
from bnkit.experiments.optimizers import optimizer_for, schedule_for
from bnkit.experiments.plan import Run
from bnkit.experiments.randomness import order_of_examples, seeded
from bnkit.experiments.records import Epoch
from bnkit.model import normalising_by, population_statistics

# Evaluation has no gradients to keep, so that its batches may be larger than those of training.
_EVALUATION_BATCH = 1000
# Reading the loss waits for the device, so it is not read at every step.
_STEPS_BETWEEN_CHECKS = 32


@dataclass
class Training:
    """What moves while a run trains, and has to be restored to go on."""

    model: nn.Module
    optimizer: optim.Optimizer
    schedule: LRScheduler | None

    @classmethod
    def of(cls, run: Run, model: nn.Module, examples: int) -> Training:
        """The beginning of ``run``, whose network is ``model``, on so many training examples."""
        optimizer = optimizer_for(model.parameters(), run.settings)
        batch_size = run.settings.batch_size
        steps = examples // batch_size if run.drop_last else math.ceil(examples / batch_size)
        return cls(model, optimizer, schedule_for(optimizer, run.settings, steps * run.epochs))


@dataclass(frozen=True)
class _Learned:
    loss: float | None
    accuracy: float | None
    gradient_norm: float | None
    duration: float
    examples: int


def train(
    run: Run,
    training: Training,
    parts: Parts,
    after: Epoch | None,
    on_batch: Callable[[int, int], None],
) -> Iterator[Epoch]:
    """Train for the epochs of ``run`` that follow ``after``, and yield the figures of each.

    Each epoch starts from random states that follow from the seed and its number alone, so that a run that goes on from
    epoch 7 is the run that was never interrupted. A loss that is not finite ends the run: its last epoch has no loss.

    Args:
        run: What is trained.
        training: Its network and optimizer, as they are after ``after``; changed in place.
        parts: The data, on the device of the network.
        after: The figures of the last epoch that is done; None at the beginning.
        on_batch: Told the epoch and the number of examples of every step.
    """
    model = training.model
    run_duration = after.run_duration if after else 0.0
    for epoch in range(after.epoch + 1 if after else 1, run.epochs + 1):
        with seeded(run.seed, "epoch", epoch):
            learned = _learn(run, training, parts.train, epoch, on_batch)
        run_duration += learned.duration
        diverged = learned.loss is None

        validation_loss, validation_accuracy = _measure(model, None if diverged else parts.validation)
        test_loss, test_accuracy = _measure(model, None if diverged else parts.test)
        yield Epoch(
            epoch=epoch,
            loss=learned.loss,
            accuracy=learned.accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            test_accuracy_population=None if diverged else _accuracy_under_population(model, parts),
            gradient_norm=learned.gradient_norm,
            epoch_duration=learned.duration,
            run_duration=run_duration,
            examples_per_second=learned.examples / learned.duration if learned.duration > 0 else None,
        )
        if diverged:
            return


def _learn(run: Run, training: Training, examples: Part, epoch: int, on_batch: Callable[[int, int], None]) -> _Learned:
    """One pass over the training data."""
    model, optimizer, schedule = training.model, training.optimizer, training.schedule
    device = examples.device
    parameters = list(model.parameters())
    loss_sum, correct, norm_sum = (torch.zeros((), device=device) for _ in range(3))
    seen = steps = 0

    model.train()
    began = _now(device)
    order = order_of_examples(len(examples), run.seed, epoch).to(device)
    for inputs, targets in batches(examples, run.settings.batch_size, order, run.drop_last):
        logits = model(inputs)
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if schedule is not None:
            schedule.step()

        with torch.no_grad():
            loss_sum += loss * len(targets)  # the mean over a short last batch counts by its size
            correct += (logits.argmax(1) == targets).sum()
            norm_sum += nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        seen += len(targets)
        steps += 1
        on_batch(epoch, len(targets))
        if steps % _STEPS_BETWEEN_CHECKS == 0 and not math.isfinite(loss_sum.item()):
            break
    duration = _now(device) - began

    if not math.isfinite(loss_sum.item()):
        return _Learned(None, None, None, duration, seen)
    norm = norm_sum.item() / steps
    return _Learned(
        loss_sum.item() / seen, correct.item() / seen, norm if math.isfinite(norm) else None, duration, seen
    )


def _measure(model: nn.Module, examples: Part | None) -> tuple[float | None, float | None]:
    """Loss and accuracy in evaluation mode; a loss that is not finite is None."""
    if examples is None:
        return None, None
    loss_sum, correct = 0.0, 0
    model.eval()
    with torch.no_grad():
        for inputs, targets in batches(examples, _EVALUATION_BATCH):
            logits = model(inputs)
            loss_sum += functional.cross_entropy(logits, targets, reduction="sum").item()
            correct += int((logits.argmax(1) == targets).sum().item())
    model.train()
    loss = loss_sum / len(examples)
    return loss if math.isfinite(loss) else None, correct / len(examples)


def _accuracy_under_population(model: nn.Module, parts: Parts) -> float | None:
    """Test accuracy with the statistics of the training part in place of the moving average; None without batch norm."""
    statistics = population_statistics(model, _without_a_batch_of_one(parts.train))
    if not statistics:
        return None
    with normalising_by(model, statistics):
        return _measure(model, parts.test)[1]


def _without_a_batch_of_one(examples: Part) -> Iterator[Tensor]:
    drop_last = len(examples) % _EVALUATION_BATCH == 1 and len(examples) > 1
    # In a shuffle of their own: batches of one class each would not normalise as those of training do.
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(examples), generator=generator).to(examples.device)
    return (inputs for inputs, _ in batches(examples, _EVALUATION_BATCH, order, drop_last))


def _now(device: torch.device) -> float:
    """Seconds on a clock that never jumps, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
