"""One traced run of a model on an example, in training mode, for the rules about structure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import FrameType

import torch
import torch.utils.checkpoint
from torch import nn

from bnkit.errors import ModelError
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.layer_sites import Sites, sites_in
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, BatchNormSite
from bnkit.model.inspect.trace import Operation, Trace, trace
from bnkit.model.preserve_state import temporary_hooks


class ExampleTrace:
    """The operations of one run on an example, in training mode if the model allows it.

    Training mode shows dropout and outputs that only training has. Batch norms still evaluate: one example is then enough,
    they do not synchronise with other processes, and the structure is the same.

    Args:
        model: Its modes change; the caller restores them.
        example: The input to run it on.
        sites: The batch norms of the model.

    Attributes:
        trace: The operations.
        sites: The layers.
        never_ran: The batch norms, by first name, that ran neither in training nor in evaluation mode.
        checkpointed: The batch norms, by first name, that ran inside ``torch.utils.checkpoint``.
        is_training: Whether it ran in training mode; False if the model raised there and ran in evaluation mode instead.

    Raises:
        ModelError: If the model raises in evaluation mode too.
    """

    def __init__(self, model: nn.Module, example: Example, sites: list[BatchNormSite]) -> None:
        self._model = model
        norms = {site.module for site in sites}
        self.checkpointed: frozenset[str] = frozenset()
        try:
            with _checkpointed(sites) as names:
                self.trace: Trace = trace(model, example, in_training=lambda module: module not in norms)
            self.is_training, self.checkpointed = True, frozenset(names)
        except ModelError:
            self.trace = trace(model, example)
            self.is_training = False
        self.sites: Sites = sites_in(self.trace, model)
        missing = {site.name for site in sites if not self._ran(site.name, self.trace)}
        if missing and self.is_training:  # training may skip blocks at random, or take another path
            again = trace(model, example)
            missing = {name for name in missing if not self._ran(name, again)}
        self.unused = frozenset(missing)

    @staticmethod
    def _ran(name: str, run: Trace) -> bool:
        return run.calls[name] > 0 or bool(run.of_module(name))

    def calls(self, site: BatchNormSite) -> tuple[Operation, ...]:
        """The steps that are calls of the batch norm, in order."""
        return self.trace.of_module(site.name)

    def before(self, operation: Operation) -> Operation | None:
        """The step whose result is normalised, ignoring reshapes; None if it is an input of the model."""
        step = operation
        while step.inputs and step.inputs[0] >= 0:
            step = self.trace.operations[step.inputs[0]]
            if step.kind is not OpType.RESHAPE:
                return step
        return None

    def after(self, operation: Operation) -> Iterator[Operation]:
        """The steps that use the result of ``operation``, ignoring reshapes."""
        for user in self.trace.users_of(operation):
            if user.kind is OpType.RESHAPE:
                yield from self.after(user)
            else:
                yield user

    def reaches_output(self, operation: Operation) -> bool:
        """Whether the model returns the result of ``operation``, possibly reshaped."""
        return operation.index in self.trace.outputs or any(
            user.kind is OpType.RESHAPE and self.reaches_output(user) for user in self.trace.users_of(operation)
        )

    @cached_property
    def examples(self) -> int | None:
        """The number of examples, from the first dimension of the first batch norm's input; None if none ran."""
        return next((o.shapes[0][0] for o in self.trace.operations if o.kind is OpType.NORM and o.shapes), None)

    def values_per_example(self, site: BatchNormSite) -> int | None:
        """The number of values per channel of one example, in the batch norm's first call; None if it never ran."""
        first = next(iter(self.calls(site)), None)
        if first is None or not first.shapes or not isinstance(site.recognised_as, BatchNormLike):
            return None
        shape = first.shapes[0]
        return max(1, torch.Size(shape[2:]).numel())


@contextmanager
def _checkpointed(sites: list[BatchNormSite]) -> Iterator[set[str]]:
    """Collect the names of the batch norms called from activation checkpointing, as seen on the call stack."""
    names: set[str] = set()
    file = torch.utils.checkpoint.__file__

    def hook_of(site: BatchNormSite) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object) -> None:
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code.co_filename != file:
                frame = frame.f_back
            if frame is not None:
                names.add(site.name)

        return hook

    with temporary_hooks(site.module.register_forward_pre_hook(hook_of(site)) for site in sites):
        yield names
