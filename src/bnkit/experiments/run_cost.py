"""The durations of runs, estimated from their networks, to choose between threads and workers before training.

An estimate, not a measurement: the threads of a run enter its hash, and a measurement would depend on the machine's load.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from bnkit.experiments.plan import Plan, Run
from bnkit.model.inspect.dispatch_mode import DispatchMode
from bnkit.seeding import seeded

# The speed of a core that trains convolutions with few channels, forward and backward together.
_OPERATIONS_PER_SECOND = 16e9
# The time of a layer in a step, independent of its size: calls from Python, autograd, the optimizer.
_SECONDS_PER_LAYER = 1e-4
# The cost of a backward pass in addition to the forward pass.
_FORWARD_AND_BACKWARD = 3
# Steps shorter than this do not gain from several threads, especially on a busy machine: a
# comparison with two threads fell from 6,500 to 208 examples a second.
_SMALL_STEP = 0.25
_NETWORK_SETTINGS = ("activation", "depth", "width", "dropout", "order", "memory_format")


class RunCosts:
    """The estimated durations of runs on one core.

    Args:
        build: Makes the network of a run. Each is built, and run on a few examples, once.
        example: Returns example inputs of a run.
        examples: The numbers of training and validation examples.
    """

    def __init__(self, build: Callable[[Run], nn.Module], example: Callable[[Run], Tensor], examples: int) -> None:
        self._build, self._example, self._examples = build, example, examples
        self._networks: dict[tuple[object, ...], tuple[float, int] | None] = {}

    def seconds_per_step(self, run: Run) -> float | None:
        """The duration of a training step; None if the network fails, which later checks report."""
        key = (run.network.key, *(getattr(run.settings, name) for name in _NETWORK_SETTINGS))
        if key not in self._networks:
            self._networks[key] = self._of_network(run)
        cost = self._networks[key]
        if cost is None:
            return None
        operations, layers = cost
        per_step = _FORWARD_AND_BACKWARD * operations * run.settings.batch_size
        return per_step / _OPERATIONS_PER_SECOND + layers * _SECONDS_PER_LAYER

    def seconds(self, run: Run) -> float:
        """The duration of the whole run; 0 if the network fails."""
        steps = math.ceil(self._examples * (1 - run.validation) / run.settings.batch_size)
        return run.epochs * steps * (self.seconds_per_step(run) or 0.0)

    def are_small(self, plan: Plan) -> bool:
        """Whether all steps of ``plan`` are too short for several threads."""
        return all((cost := self.seconds_per_step(run)) is not None and cost < _SMALL_STEP for run in plan)

    def _of_network(self, run: Run) -> tuple[float, int] | None:
        """The floating-point operations of a forward pass for each example, and the number of layers."""
        try:
            model, example = self._build(run).eval(), self._example(run)
            with torch.no_grad(), seeded(run.seed, "cost"), _FlopCounter() as counter:
                model(example.clone())
        except (Exception, SystemExit):
            return None
        return counter.operations / len(example), sum(1 for module in model.modules() if not any(module.children()))


class _FlopCounter(DispatchMode):
    """Counts floating-point operations as PyTorch's ``FlopCounterMode`` does, which loads ``torch._dynamo``: over a second."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def run_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result
