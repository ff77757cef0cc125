"""Time the steps of a model, and single layers within them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import ModelError
from bnkit.model.inspect.example import Example, tensors_in

# A clock with coarser steps, as that of the processor's time on Windows, cannot time a layer: 10 µs.
_FINEST_STEP = 1e-5
# A point in time: seconds on a CPU, an event on a GPU.
Moment = Any


class Clock:
    """Reads the time of a device; on a GPU, when the device reaches that point, not when Python does.

    With one thread on a CPU it is the processor's time, which stands still while other processes run, if the system has it in
    fine steps. A clock on the wall would not: such pauses are longer than most layers, so that they hit the step in every round
    and a layer in few.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._is_cuda = device is not None and device.type == "cuda"
        is_cpu = device is None or device.type == "cpu"
        is_fine = time.get_clock_info("thread_time").resolution <= _FINEST_STEP
        self.is_processor_time = is_cpu and is_fine and torch.get_num_threads() == 1
        self._read = time.thread_time if self.is_processor_time else time.perf_counter

    def now(self) -> Moment:
        """The current moment."""
        if not self._is_cuda:
            return self._read()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms(self, start: Moment, end: Moment) -> float:
        """The milliseconds between two moments; on a GPU, call ``wait`` first."""
        return float(start.elapsed_time(end)) if self._is_cuda else (end - start) * 1e3

    def wait(self) -> None:
        """Wait for the device."""
        if self._is_cuda:
            torch.cuda.synchronize()


@dataclass
class StepTimes:
    """The durations of one step, in milliseconds.

    Attributes:
        forward, backward: The durations for the whole model.
        layers: ``(forward, backward)`` for single layers by name, summed over their calls.
    """

    forward: float
    backward: float
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def whole(self) -> float:
        """The sum of forward and backward."""
        return self.forward + self.backward


class LayerTimer:
    """Times single layers while a model runs: by hooks on modules, and on their nodes of the autograd graph.

    Backward hooks of modules would insert their own nodes into the graph, which fails if an in-place activation follows
    the layer.

    Args:
        layers: The modules, by name.
        clock: The clock.
    """

    def __init__(self, layers: Mapping[str, nn.Module], clock: Clock) -> None:
        self._layers, self._clock = layers, clock
        self._forward: dict[str, list[tuple[Moment, Moment]]] = {}
        self._backward: dict[str, list[tuple[Moment, Moment]]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the layers inside the context."""
        handles = []
        for name, module in self._layers.items():
            handles += self._hook(name, module)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, module: nn.Module) -> list[Any]:
        started: list[Moment] = []

        def enter(module: nn.Module, arguments: Any, keywords: Any) -> None:
            started.append(self._clock.now())

        def leave(module: nn.Module, arguments: Any, keywords: Any, output: Any) -> None:
            self._forward.setdefault(name, []).append((started.pop(), self._clock.now()))
            for node in _nodes_between((arguments, keywords), output):
                self._time_node(name, node)

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def _time_node(self, name: str, node: Any) -> None:
        started: list[Moment] = []

        def before(gradients: Any) -> None:
            started.append(self._clock.now())

        def after(results: Any, gradients: Any) -> None:
            self._backward.setdefault(name, []).append((started.pop(), self._clock.now()))

        node.register_prehook(before)
        node.register_hook(after)

    def times(self) -> dict[str, tuple[float, float]]:
        """Milliseconds of each layer's forward and backward calls, summed; on a GPU, call ``Clock.wait`` first."""

        def total(pairs: list[tuple[Moment, Moment]]) -> float:
            return sum(self._clock.ms(start, end) for start, end in pairs)

        return {
            name: (total(self._forward.get(name, [])), total(self._backward.get(name, []))) for name in self._layers
        }


def _nodes_between(inputs: Any, output: Any) -> list[Any]:
    """The nodes of the autograd graph between ``inputs`` and ``output``, without those that accumulate gradients."""
    ends = {tensor.grad_fn for _, tensor in tensors_in(inputs) if tensor.grad_fn is not None}
    waiting = [tensor.grad_fn for _, tensor in tensors_in(output) if tensor.grad_fn is not None]
    nodes: dict[Any, None] = {}
    while waiting:
        node = waiting.pop()
        if node in nodes or node in ends or not node.next_functions:
            continue
        nodes[node] = None
        waiting += [before for before, _ in node.next_functions if before is not None]
    return list(nodes)


class TrainingStep:
    """A forward and a backward pass as in training, without an optimizer; gradients are not kept.

    The gradient of the output is random but fixed: for a loss like a sum, the gradient through batch norm would be 0.

    Args:
        example: The input of the model.
        clock: The clock.
    """

    def __init__(self, example: Example, clock: Clock) -> None:
        self._example, self._clock = example, clock

    def run(self, model: nn.Module, layers: Mapping[str, nn.Module] | None = None) -> StepTimes:
        """Time one step of ``model`` in its current modes, and single ``layers`` of it.

        Raises:
            ModelError: The model raises.
        """
        timer = LayerTimer(layers or {}, self._clock)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        example = self._example.fresh()
        with torch.enable_grad(), timer.running():
            self._clock.wait()
            start = self._clock.now()
            output = example.run(model)
            middle = self._clock.now()
            ends = [tensor for _, tensor in tensors_in(output) if tensor.requires_grad]
            gradients = _random_like(ends)
            self._clock.wait()
            again = self._clock.now()
            if ends and parameters:
                try:
                    torch.autograd.grad(ends, parameters, gradients, allow_unused=True)
                except RuntimeError as error:
                    raise ModelError(
                        f"{type(model).__name__} raised {type(error).__name__} in the backward pass: "
                        f"{' '.join(str(error).split())[:300]}; expected a model that can be trained"
                    ) from error
            end = self._clock.now()
            self._clock.wait()
        return StepTimes(self._clock.ms(start, middle), self._clock.ms(again, end), timer.times())

    def evaluate(self, model: nn.Module, layers: Mapping[str, nn.Module] | None = None) -> StepTimes:
        """Time one forward pass of ``model`` in its current modes, without gradients, and single ``layers`` of it.

        Raises:
            ModelError: The model raises.
        """
        timer = LayerTimer(layers or {}, self._clock)
        example = self._example.fresh()
        with torch.no_grad(), timer.running():
            self._clock.wait()
            start = self._clock.now()
            example.run(model)
            end = self._clock.now()
            self._clock.wait()
        return StepTimes(self._clock.ms(start, end), 0.0, timer.times())


def _random_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(tensor.shape, generator=generator).to(device=tensor.device, dtype=tensor.dtype)
        for tensor in tensors
    ]


def interleaved(
    functions: Mapping[str, Callable[[], StepTimes]], *, repetitions: int, warm_up: int
) -> dict[str, list[StepTimes]]:
    """The results of each of ``functions`` in ``repetitions`` rounds of one call each, after warm-up rounds.

    Each round begins with another function, so that none always follows the same one; no garbage is collected within a call.
    """
    by_function: dict[str, list[StepTimes]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(warm_up + repetitions):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with _no_garbage_collection():
                times = functions[name]()
            if number >= warm_up:
                by_function[name].append(times)
    return by_function


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
