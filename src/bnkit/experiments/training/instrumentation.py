"""Measure layers, memory and the loss landscape at some steps of a run, as set in the experiment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn, optim

from bnkit.experiments.plan import Run
from bnkit.experiments.training.losses import Loss
from bnkit.model.instrument.activation_memory import bytes_for_backward
from bnkit.model.instrument.layer_instrumentation import LayerInstrumentation
from bnkit.model.instrument.loss_landscape import loss_along_gradient


class StepInstrumentation:
    """Measures at some steps of one epoch.

    Args:
        run: The run, which sets the intervals.
        model, optimizer, loss: The objects to measure.
        steps: The number of steps in earlier epochs.
        layer_instrumentation: Measures the layers, for all epochs of the run; None if ``run`` does not request it.

    Attributes:
        steps: The number of steps so far, including this epoch.
        seconds: The time for the loss landscape and memory, which does not count as training; that of ``observe`` does.
        backward_bytes, layers, landscape: The measurements, as in ``Epoch``.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: optim.Optimizer,
        loss: Loss,
        steps: int,
        layer_instrumentation: LayerInstrumentation | None,
    ) -> None:
        self._run, self._model, self._optimizer, self._loss = run, model, optimizer, loss
        self._layer_instrumentation = layer_instrumentation
        self.steps = steps
        self.seconds = 0.0
        self.backward_bytes: int | None = None
        self.layers: list[dict[str, Any]] | None = [] if run.observe else None
        self.landscape: list[dict[str, float | None]] | None = [] if run.landscape else None

    @contextmanager
    def step(self, inputs: Tensor, targets: Tensor) -> Iterator[None]:
        """A context for one training step on the batch."""
        step, run = self.steps, self._run
        self.steps += 1
        if self.landscape is not None and step % run.landscape == 0:
            began = time.perf_counter()
            lr = float(self._optimizer.param_groups[0]["lr"])
            self.landscape.append({"step": step, **loss_along_gradient(self._model, self._loss, inputs, targets, lr)})
            self.seconds += time.perf_counter() - began
        if self._layer_instrumentation is None or self.layers is None or step % run.observe:
            yield
            return
        if step == 0:
            began = time.perf_counter()
            self.backward_bytes = bytes_for_backward(self._model, inputs)
            self.seconds += time.perf_counter() - began
        with self._layer_instrumentation.step(inputs) as figures:
            yield
        self.layers.append({"step": step, "layers": {name: values for name, values in figures.items() if values}})
