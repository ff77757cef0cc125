"""Trace a model by running it: every operation, the module it belongs to, and the operations that its inputs came from.

The model's code is not analysed: control flow, functional activations and modules that run several times are seen as
they happen. Code that does not run on the example is not seen, and neither are operations outside PyTorch (NumPy), in
other threads, and on tensor subclasses.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnkit.model.inspect.dispatch_mode import DispatchMode
from bnkit.model.inspect.example import Example, tensors_in
from bnkit.model.inspect.operation_types import OpType, type_of_module, type_of_operation
from bnkit.model.inspect.supported_models import is_script
from bnkit.model.preserve_state import preserve_model, temporary_hooks


@dataclass(frozen=True, eq=False)
class Operation:
    """One step of a run.

    Attributes:
        index: Its place in the run.
        kind: The kind of the operation.
        name: The name of the module's class, or of the ATen operation.
        module: The dotted name of the module that it calls, or whose weight it uses (empty for the model itself); None
            if neither.
        is_call: Whether it is a call of that module, and not a function that uses its weight.
        within: The dotted name of the innermost running module; empty for the model itself.
        inputs: The indices of the steps that its tensors came from; -1 for tensors from outside.
        shapes: The shapes of its tensors, in order.
        arguments: Its arguments, with tensors replaced by None.
        shape: The shape of its (first) result.
        is_single: Whether its result is a single tensor, not a container.
    """

    index: int
    kind: OpType
    name: str
    module: str | None
    is_call: bool
    within: str
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    is_single: bool

    @property
    def label(self) -> str:
        """Its name in messages: that of its module, if it has one."""
        return self.name if self.module is None else self.module


@dataclass(frozen=True)
class Trace:
    """The trace of one run of a model.

    Attributes:
        operations: The steps, in order.
        users: The steps that use the result of a step, by its index; -1 for tensors from outside.
        outputs: The steps whose results the model returned.
        calls: How often each module ran, by its (first) dotted name.
        names: All names of each module, by the first.
        read: The modules whose parameters or buffers other operations used on the way to the output.
        output: The output of the model.
    """

    operations: tuple[Operation, ...]
    users: dict[int, tuple[int, ...]]
    outputs: frozenset[int]
    calls: Counter[str]
    names: dict[str, tuple[str, ...]]
    read: frozenset[str]
    output: Any = field(repr=False)

    def users_of(self, operation: Operation) -> Iterator[Operation]:
        """The steps that use the result of ``operation``."""
        return (self.operations[index] for index in self.users.get(operation.index, ()))

    def inputs_of(self, operation: Operation) -> Iterator[Operation]:
        """The steps whose results ``operation`` uses."""
        return (self.operations[index] for index in operation.inputs if index >= 0)

    def of_module(self, name: str) -> tuple[Operation, ...]:
        """The steps that are calls of the module ``name``, or use its weight."""
        return tuple(operation for operation in self.operations if operation.module == name)


def trace(model: nn.Module, example: Example, in_training: Callable[[nn.Module], bool] | None = None) -> Trace:
    """Trace ``model`` on ``example``. The model, the modes and the random state are not changed.

    Args:
        model: Any model.
        example: The input.
        in_training: Selects the modules that run in training mode; None for none.

    Raises:
        ModelError: The model raises on the example.
    """
    recorder = _Recorder(model)
    with preserve_model(model), torch.no_grad():
        model.eval()
        if in_training is not None:
            for module in model.modules():
                if hasattr(module, "training"):
                    module.training = in_training(module)
        fresh = example.fresh()
        for _, tensor in tensors_in(fresh):
            recorder.came_from(tensor, -1)
        with recorder.recording():
            output = fresh.run(model)
    return recorder.trace(output)


class _Recorder(DispatchMode):
    """Records all steps; keeps their results alive, so that a tensor's identity determines the step that made it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names: dict[int, str] = {}
        self._all_names: dict[str, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            first = self._names.setdefault(id(module), name)
            self._all_names.setdefault(first, []).append(name)
        self._model = model
        self._operations: list[Operation] = []
        self._producers: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._calls: Counter[str] = Counter()
        self._running: list[str] = []
        # The running module that counts as one operation, with the producers and shapes of its inputs.
        self._whole: tuple[weakref.ref[nn.Module], tuple[int, ...], tuple[tuple[int, ...], ...]] | None = None
        self._owners: dict[int, str] = {}
        self._reads: list[tuple[int, str]] = []

    def came_from(self, tensor: Tensor, index: int) -> None:
        self._producers[id(tensor)] = index
        self._alive.append(tensor)

    @contextmanager
    def recording(self) -> Iterator[None]:
        # Hooks on each module: global hooks do not receive keyword arguments. TorchScript has no hooks; its operations
        # are traced one by one.
        hooks = (
            hook
            for module in self._model.modules()
            if not is_script(module)
            for hook in (
                module.register_forward_pre_hook(self._entered, with_kwargs=True, prepend=True),
                module.register_forward_hook(self._left, always_call=True),
            )
        )
        with temporary_hooks(hooks), self:
            yield

    def trace(self, output: Any) -> Trace:
        users: dict[int, list[int]] = {}
        for operation in self._operations:
            for index in operation.inputs:
                users.setdefault(index, []).append(operation.index)
        returned = {self._producers.get(id(tensor), -1) for _, tensor in tensors_in(output)}
        leading = set(returned)
        for operation in reversed(self._operations):
            if operation.index in leading:
                leading.update(operation.inputs)
        return Trace(
            tuple(self._operations),
            {index: tuple(dict.fromkeys(indices)) for index, indices in users.items()},
            frozenset(returned - {-1}),
            self._calls,
            {first: tuple(names) for first, names in self._all_names.items()},
            frozenset(owner for index, owner in self._reads if index in leading),
            output,
        )

    def _entered(self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        name = self._names[id(module)]
        self._running.append(name)
        self._calls[name] += 1
        if self._whole is None and _is_one_operation(module):
            tensors = [tensor for _, tensor in tensors_in((inputs, keywords))]
            producers = tuple(self._producers.get(id(tensor), -1) for tensor in tensors)
            self._whole = weakref.ref(module), producers, tuple(tuple(tensor.shape) for tensor in tensors)

    def _left(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = self._names[id(module)]
        self._running.pop()
        if self._whole is None or self._whole[0]() is not module:
            return
        _, producers, shapes = self._whole
        self._whole = None
        kind = type_of_module(module)
        results = [tensor for _, tensor in tensors_in(output)]
        if kind is not None and results:
            self._add(
                kind, type(module).__name__, name, True, producers, shapes, (), results, isinstance(output, Tensor)
            )

    def run_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run and record an operation."""
        result = func(*args, **kwargs)
        if self._whole is None:
            tensors = [tensor for _, tensor in tensors_in((args, kwargs))]
            name = func._schema.name.partition("::")[2]
            kind = type_of_operation(name, args)
            known = [(self._producers[id(t)], tuple(t.shape)) for t in tensors if id(t) in self._producers]
            results = [tensor for _, tensor in tensors_in(result)]
            plain = tuple(None if isinstance(value, Tensor) else value for value in args)
            owners = list(self._owners_of(tensors))
            self._reads += [(len(self._operations), owner) for owner in owners if owner not in self._running[-1:]]
            owner = next(iter(owners), None) if kind.has_weights or kind is OpType.NORM else None
            if results:
                inputs, shapes = tuple(index for index, _ in known), tuple(shape for _, shape in known)
                self._add(kind, name, owner, False, inputs, shapes, plain, results, isinstance(result, Tensor))
        return result

    def _add(
        self,
        kind: OpType,
        name: str,
        module: str | None,
        is_call: bool,
        inputs: tuple[int, ...],
        shapes: tuple[tuple[int, ...], ...],
        arguments: tuple[Any, ...],
        results: list[Tensor],
        is_single: bool,
    ) -> None:
        index = len(self._operations)
        within = self._running[-1] if self._running else ""
        shape = tuple(results[0].shape)
        self._operations.append(
            Operation(index, kind, name, module, is_call, within, inputs, shapes, arguments, shape, is_single)
        )
        for tensor in results:
            self.came_from(tensor, index)

    def _owners_of(self, tensors: Sequence[Tensor]) -> Iterator[str]:
        """The modules that have parameters or buffers among ``tensors`` or the tensors that these are views of."""
        if not self._owners:
            for name, module in self._model.named_modules():
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if not is_lazy(tensor):
                        self._owners.setdefault(_storage(tensor), name)
            self._owners.pop(0, None)
        for tensor in tensors:
            if (owner := self._owners.get(_storage(tensor))) is not None:
                yield owner


def _storage(tensor: Tensor) -> int:
    """The address of the memory of ``tensor``; 0 if it has no storage, such as a sparse tensor."""
    try:
        address: int = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
    return address


def _is_one_operation(module: nn.Module) -> bool:
    """Whether a module counts as one operation: a known kind, with at most an activation or dropout inside."""
    inside = {name for name, _ in module.named_children()} - {"parametrizations", "activation", "act", "drop"}
    return type_of_module(module) is not None and not inside
