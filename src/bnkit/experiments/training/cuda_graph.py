"""Training steps whose forward and backward pass is recorded once and replayed.

The step time of a small network on a GPU is dominated by kernel launches; a CUDA graph launches all kernels together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bnkit.experiments.training.learning_task import training_step
from bnkit.experiments.training.losses import Loss

# Required by PyTorch's documentation of CUDA graphs: libraries initialise themselves in the first steps.
_WARM_UP_STEPS = 3
# This many normal steps are timed, and as many replayed ones.
_TIMED_STEPS = 8
# A recording takes memory: it must be faster by this factor.
_MAX_TIME_RATIO = 0.95


class GraphRecorder(Protocol):
    """Records work on a device, so that it can be replayed."""

    def warming_up(self) -> AbstractContextManager[None]:
        """Inside, work runs in the same way as during recording."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record ``work`` without executing it, and return a function that replays it on the same memory.

        Raises:
            RuntimeError: If it cannot be recorded.
        """
        ...

    def now(self) -> float:
        """The time in seconds, after all work is done."""
        ...


class CudaGraphRecorder:
    """Records CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Inside, work runs on the recording stream: autograd stays on the stream on which a parameter was first used."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See ``GraphRecorder``; raises RuntimeError if ``work`` waits for the device, or cannot be in a graph."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those of data loaders, may use the device meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def now(self) -> float:
        """The time in seconds, after the device has finished its work."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


class GraphedStep:
    """A ``training_step`` that replays its forward and backward pass, if this is faster.

    The same kernels give the same results; the optimizer steps outside of the recording, so that any optimizer and schedule
    works. A batch of another size than the first (the last of an epoch) is computed normally. A network's decisions in
    Python are recorded once: use it only for networks whose code is known.

    Not ``torch.cuda.make_graphed_callables``: it replaces the network's forward method, for batches of another size too, and
    its warm-up passes change the running statistics.

    Args:
        recorder: Makes the recordings.

    Attributes:
        replays: Whether it replays; None until that is decided.
        reason: The error that prevents replaying, if there was one.
    """

    def __init__(self, recorder: GraphRecorder) -> None:
        self._recorder = recorder
        self.replays: bool | None = None
        self.reason = ""
        self._recording: _Recording | None = None
        self._shape: tuple[torch.Size, torch.Size] | None = None
        self._warm_up = _WARM_UP_STEPS
        self._eager_seconds: list[float] = []
        self._replayed_seconds: list[float] = []

    def __call__(
        self, model: nn.Module, optimizer: Optimizer, loss: Loss, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``training_step``. The results are valid until the next call."""
        if self._shape is None:
            self._shape = inputs.shape, targets.shape
        if self.replays is False or (inputs.shape, targets.shape) != self._shape:
            return self._step(model, optimizer, loss, inputs, targets)
        if self._warm_up:
            self._warm_up -= 1
            with self._recorder.warming_up():
                return self._step(model, optimizer, loss, inputs, targets)
        if self.replays:
            assert self._recording is not None
            return self._recording(optimizer, inputs, targets)
        began = self._recorder.now()
        if self._recording is None:
            taken = self._step(model, optimizer, loss, inputs, targets)
            self._eager_seconds.append(self._recorder.now() - began)
        else:
            taken = self._recording(optimizer, inputs, targets)
            self._replayed_seconds.append(self._recorder.now() - began)
        if len(self._replayed_seconds) == _TIMED_STEPS:
            self._decide()
        elif len(self._eager_seconds) == _TIMED_STEPS and self._recording is None:
            self._record(model, loss, inputs, targets)
        return taken

    @staticmethod
    def _step(
        model: nn.Module, optimizer: Optimizer, loss: Loss, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``training_step``, but the results have no graph: autograd's nodes stay on the stream they were made on."""
        value, outputs = training_step(model, optimizer, loss, inputs, targets)
        return value.detach(), outputs.detach()

    def _record(self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> None:
        try:
            self._recording = _Recording(self._recorder, model, loss, inputs, targets)
        except RuntimeError as error:
            self.replays, self.reason = False, str(error)

    def _decide(self) -> None:
        self.replays = median(self._replayed_seconds) < _MAX_TIME_RATIO * median(self._eager_seconds)
        if not self.replays:
            # Frees its memory, except that of the last step's results, which are still in use.
            self._recording = None


class _Recording:
    """The recorded forward and backward pass of one step, on its own memory."""

    def __init__(self, recorder: GraphRecorder, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs.clone(), targets.clone()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = [parameter.grad for parameter in parameters]
        self._results: list[Tensor] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

        def work() -> None:
            for parameter in parameters:
                parameter.grad = None  # so that gradients are written, not accumulated
            outputs = model(self._inputs)
            value = loss(outputs, self._targets)
            value.backward()  # type: ignore[no-untyped-call]
            self._results[:] = [value.detach(), outputs.detach()]
            self._gradients[:] = [(parameter, parameter.grad) for parameter in parameters]

        try:
            self._replay = recorder.record(work)
        finally:
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient

    def __call__(self, optimizer: Optimizer, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient  # a batch of another size, computed normally, has replaced it
        optimizer.step()
        loss, outputs = self._results
        return loss, outputs
