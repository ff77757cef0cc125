"""How long the steps of a model take, and single layers inside of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.errors import ModelError
from bnkit.model.inspect.example import Example, tensors_in

# What a moment is: seconds on a CPU, an event on a GPU.
Moment = Any


class Clock:
    """Moments on a device; on a GPU those at which it gets there, not those at which Python does."""

    def __init__(self, device: torch.device | None) -> None:
        self._is_cuda = device is not None and device.type == "cuda"

    def now(self) -> Moment:
        """This moment."""
        if not self._is_cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms(self, start: Moment, end: Moment) -> float:
        """The milliseconds between two moments; on a GPU after ``wait``."""
        return float(start.elapsed_time(end)) if self._is_cuda else (end - start) * 1e3

    def wait(self) -> None:
        """Wait for the device."""
        if self._is_cuda:
            torch.cuda.synchronize()


@dataclass
class StepTimes:
    """What one step took, in milliseconds.

    Attributes:
        forward, backward: Of the whole model.
        layers: Of single layers by name, ``(forward, backward)``, summed over their calls.
    """

    forward: float
    backward: float
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def whole(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


class LayerTimer:
    """Times single layers while a model runs: by hooks on modules, and on their nodes of the autograd graph.

    Hooks of modules on the backward pass would put nodes of their own into the graph, which an activation in place behind
    the layer does not bear.

    Args:
        layers: The modules, by name.
        clock: What tells the time.
    """

    def __init__(self, layers: Mapping[str, nn.Module], clock: Clock) -> None:
        self._layers, self._clock = layers, clock
        self._forward: dict[str, list[tuple[Moment, Moment]]] = {}
        self._backward: dict[str, list[tuple[Moment, Moment]]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, the layers are timed."""
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
        """Forward and backward of each layer in milliseconds, summed; on a GPU after it was waited for."""

        def total(pairs: list[tuple[Moment, Moment]]) -> float:
            return sum(self._clock.ms(start, end) for start, end in pairs)

        return {
            name: (total(self._forward.get(name, [])), total(self._backward.get(name, []))) for name in self._layers
        }


def _nodes_between(inputs: Any, output: Any) -> list[Any]:
    """The nodes of the autograd graph that lead from ``inputs`` to ``output``, the accumulation of gradients aside."""
    ends = {tensor.grad_fn for _, tensor in tensors_in(inputs) if tensor.grad_fn is not None}
    waiting = [tensor.grad_fn for _, tensor in tensors_in(output) if tensor.grad_fn is not None]
    found: dict[Any, None] = {}
    while waiting:
        node = waiting.pop()
        if node in found or node in ends or not node.next_functions:
            continue
        found[node] = None
        waiting += [before for before, _ in node.next_functions if before is not None]
    return list(found)


class TrainingStep:
    """A forward and a backward pass of a model, as training has them, without an optimizer; no gradient is kept.

    The gradient of the output is random, and the same each time: behind a loss like a sum, what batch norm passes on would be 0.

    Args:
        example: What the model is called with.
        clock: What tells the time.
    """

    def __init__(self, example: Example, clock: Clock) -> None:
        self._example, self._clock = example, clock

    def run(self, model: nn.Module, layers: Mapping[str, nn.Module] | None = None) -> StepTimes:
        """One step of ``model``, in the modes that it has, and single ``layers`` of it.

        Raises:
            ModelError: It raises.
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
        """One forward pass of ``model``, in the modes that it has, without a graph, and single ``layers`` of it.

        Raises:
            ModelError: It raises.
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
    """What each of ``functions`` returns in each of ``repetitions`` rounds, all of them in each round, after some to warm up."""
    found: dict[str, list[StepTimes]] = {name: [] for name in functions}
    for number in range(warm_up + repetitions):
        for name, function in functions.items():
            times = function()
            if number >= warm_up:
                found[name].append(times)
    return found


def median_of(times: Sequence[StepTimes], value: Callable[[StepTimes], float]) -> float:
    """The median of a figure over rounds."""
    return median(map(value, times))
