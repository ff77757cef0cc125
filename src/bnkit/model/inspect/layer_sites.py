"""Find the layers of a model that matter for batch normalization: convolutions, linear layers and norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bnkit.model.inspect.example import Example
from bnkit.model.inspect.operation_types import OpType, type_of_module
from bnkit.model.inspect.trace import Operation, Trace, trace
from bnkit.model.layers.attached_batch_norm import WithBatchNorm


@dataclass(frozen=True)
class Site:
    """A layer of a model: a convolution, a linear layer, or a norm.

    Attributes:
        name: Its dotted name; the first, if it has several.
        names: All its names: a shared module has several.
        kind: "convolution", "linear" or "norm".
        calls: How often it ran on the example.
        fed_by, feeds: The nearest layers before and after it, by name.
        activation: The activation before the next layer, such as "relu"; empty if there is none.
        is_normalised: Whether a norm follows it, before any activation.
        crosses: Whether a sum or a concatenation lies between it and its activation.
        is_gate: Whether its activation only scales other values, as in squeeze-and-excite.
        reaches_output: Whether its values reach the output without passing another layer.
        input_shape, output_shape: The shapes of its first call.
        is_called: Whether it runs as a module, and not only through a function that uses its weight.
    """

    name: str
    names: tuple[str, ...]
    kind: OpType
    calls: int
    fed_by: tuple[str, ...]
    feeds: tuple[str, ...]
    activation: str
    is_normalised: bool
    crosses: bool
    is_gate: bool
    reaches_output: bool
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    is_called: bool


@dataclass(frozen=True)
class Sites(Sequence[Site]):
    """The layers of a model in the order in which they first run.

    Attributes:
        entries: The layers.
        never_ran: The names of the layers that did not run on the example.
    """

    entries: tuple[Site, ...]
    never_ran: tuple[str, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def called(self, name: str) -> Site:
        """The site with this dotted name (any of its names).

        Raises:
            KeyError: No site has this name.
        """
        for site in self.entries:
            if name in site.names:
                return site
        raise KeyError(name)


def sites(model: nn.Module, example_inputs: Any) -> Sites:
    """The layers of ``model``, found by running it on ``example_inputs`` in evaluation mode; ``model`` is not changed.

    Args:
        model: Any model.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords).

    Raises:
        ModelError: The model raises on the example.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> [(site.name, site.activation, site.reaches_output) for site in sites(model, torch.ones(1, 1, 4, 4))]
        [('0', 'relu', False), ('3', '', True)]
    """
    return sites_in(trace(model, Example(example_inputs)), model)


def sites_in(run: Trace, model: nn.Module) -> Sites:
    """The layers that ``run`` of ``model`` found."""
    by_name: dict[str, list[Operation]] = {}
    for operation in run.operations:
        if operation.module is not None and (operation.kind.has_weights or operation.kind is OpType.NORM):
            by_name.setdefault(operation.module, []).append(operation)
    entries = tuple(
        _site(run, name, operations, has_attached=isinstance(model.get_submodule(name), WithBatchNorm))
        for name, operations in by_name.items()
    )
    known = {name for site in entries for name in site.names}
    never = tuple(
        name
        for name, module in model.named_modules()
        if name not in known and _is_layer(type_of_module(module)) and run.calls[name] == 0
    )
    return Sites(entries, never)


def _is_layer(kind: OpType | None) -> bool:
    return kind is not None and (kind.has_weights or kind is OpType.NORM)


def _site(run: Trace, name: str, operations: list[Operation], *, has_attached: bool) -> Site:
    downstream = [_Downstream(run, operation) for operation in operations]
    first = operations[0]
    return Site(
        name=name,
        names=run.names.get(name, (name,)),
        kind=first.kind,
        calls=len(operations),
        fed_by=tuple(dict.fromkeys(o.label for operation in operations for o in _layers_before(run, operation))),
        feeds=tuple(dict.fromkeys(name for later in downstream for name in later.layers)),
        activation=next((later.activation for later in downstream if later.activation), ""),
        is_normalised=any(later.is_normalised for later in downstream),
        crosses=any(later.crosses for later in downstream),
        is_gate=any(later.is_gate for later in downstream),
        reaches_output=any(later.reaches_output for later in downstream),
        input_shape=first.shapes[0] if first.shapes else (),
        output_shape=first.shape,
        is_called=all(operation.is_call for operation in operations) or has_attached,
    )


class _Downstream:
    """Collects what follows an operation on all paths up to the next layers.

    After the first activation, only the layers that are fed are collected.
    """

    def __init__(self, run: Trace, start: Operation) -> None:
        self.activation = ""
        self.is_normalised = self.crosses = self.is_gate = self.reaches_output = False
        self._layers: dict[str, None] = {}
        self._run = run
        # Each step, whether an activation was passed, and whether a sum or concatenation was passed.
        waiting = [(start, False, False)]
        seen: set[tuple[int, bool]] = set()
        while waiting:
            operation, activated, crossed = waiting.pop()
            if (operation.index, activated) in seen:
                continue
            seen.add((operation.index, activated))
            self.reaches_output = self.reaches_output or operation.index in run.outputs
            for user in run.users_of(operation):
                crosses = crossed or user.kind is OpType.MERGE
                if self._met(user, activated, crosses):
                    waiting.append((user, activated or user.kind is OpType.ACTIVATION, crosses))

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self._layers)

    def _met(self, user: Operation, activated: bool, crosses: bool) -> bool:
        """Record ``user``, and return whether the search continues after it."""
        if user.kind.has_weights or user.kind is OpType.NORM:
            self._layers[user.label] = None
            self.is_normalised = self.is_normalised or (user.kind is OpType.NORM and not activated)
            return False
        if user.kind is OpType.ACTIVATION:
            if not activated and is_gate(self._run, user):
                self.is_gate = True
            elif not activated and (not self.activation or not crosses):
                self.activation, self.crosses = plain_name(user), crosses
            return True
        return user.kind.keeps_features


def is_gate(run: Trace, activation: Operation) -> bool:
    """Whether ``activation`` only scales values that it was not computed from, unlike in ``x * sigmoid(x)``."""
    if plain_name(activation) not in ("sigmoid", "hardsigmoid"):
        return False
    users = list(run.users_of(activation))
    while len(users) == 1 and users[0].kind in (OpType.RESHAPE, OpType.THROUGH):
        users = list(run.users_of(users[0]))
    return bool(users) and all(
        user.kind is OpType.SCALE and len(user.inputs) == 2 and not set(user.inputs) & set(activation.inputs)
        for user in users
    )


def plain_name(operation: Operation) -> str:
    """The name of an activation, the same for a module and a function: "relu", "leakyrelu"."""
    return operation.name.lower().replace("_", "")


def _layers_before(run: Trace, start: Operation) -> Iterator[Operation]:
    waiting, seen = [start], {start.index}
    while waiting:
        for operation in run.inputs_of(waiting.pop()):
            if operation.index in seen:
                continue
            seen.add(operation.index)
            if operation.kind.has_weights or operation.kind is OpType.NORM:
                yield operation
            else:
                waiting.append(operation)
