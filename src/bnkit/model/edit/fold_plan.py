"""Plan from a trace which batch norms can be folded, and into which layers; changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bnkit.model.edit.channel_axis import axis_after
from bnkit.model.edit.fold_weights import is_shared, own_tensor, why_not_into_input, why_not_writable
from bnkit.model.edit.untraced_norms import UntracedNorms
from bnkit.model.inspect.name_patterns import Patterns, matching
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, no_batch_norm, recognise
from bnkit.model.inspect.trace import Operation, Trace
from bnkit.model.layers.attached_batch_norm import CHILD, WithBatchNorm

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclass(frozen=True)
class PlannedFold:
    """How one batch norm is folded.

    Attributes:
        name: Its dotted name.
        attached_to: The layer that runs it on its output (``WithBatchNorm``), or None.
        into_output_of, into_input_of: The layers whose weights absorb the scale and shift; both empty for a separate
            one.
        scale, shift: (C,), float64.
        takes_residual: Whether it adds a residual before the activation.
        detail: Where it is folded into, in words.
        compared_at: The module whose output must stay the same.
    """

    name: str
    attached_to: str | None
    into_output_of: tuple[str, ...]
    into_input_of: tuple[str, ...]
    scale: Tensor
    shift: Tensor
    takes_residual: bool
    detail: str
    compared_at: str


def plan_folds(
    model: nn.Module, run: Trace, include: Patterns | None, exclude: Patterns | None
) -> tuple[list[PlannedFold], list[tuple[str, str]]]:
    """The batch norms of ``model`` that can be folded, and the names of the others with the reasons.

    Raises:
        ModelError: There is no batch norm.
    """
    recognised = {name: like for name, module in model.named_modules() if (like := recognise(module)) is not None}
    if not recognised:
        raise no_batch_norm(model, "has", "something to fold")
    wanted = set(matching(recognised, include, exclude))
    untraced = UntracedNorms(model, run)
    planned: list[PlannedFold] = []
    kept: list[tuple[str, str]] = []
    for name, like in sorted(recognised.items(), key=lambda entry: _first_step(run, entry[0])):
        if name not in wanted:
            kept.append((name, "it is left out by include or exclude"))
        elif reason := _why_not(run, name, like):
            kept.append((name, reason))
        else:
            planned.append(_Planner(model, run, name, like, untraced).plan())
    return planned, kept


def _first_step(run: Trace, name: str) -> int:
    operations = run.of_module(name)
    return operations[0].index if operations else len(run.operations)


def _why_not(run: Trace, name: str, like: BatchNormLike) -> str:
    operations = run.of_module(name)
    if not operations:
        return "it did not run on the example"
    if not all(operation.is_call for operation in operations):
        return "a function uses its weights: there is no call to remove"
    if like.mean is None or like.variance is None:
        return "it has no running statistics: what it does depends on the batch"
    return ""


class _Planner:
    """Plans how one batch norm is folded."""

    def __init__(self, model: nn.Module, run: Trace, name: str, like: BatchNormLike, untraced: UntracedNorms) -> None:
        assert like.mean is not None and like.variance is not None
        self._model, self._run, self._name, self._untraced = model, run, name, untraced
        self._operations = run.of_module(name)
        self._has_activation = like.activation is not None
        self._takes_residual = any(len(operation.inputs) > 1 for operation in self._operations)
        mean, variance = like.mean.detach().double(), like.variance.detach().double()
        self._scale = (variance + like.eps).rsqrt()
        if like.weight is not None:
            self._scale = self._scale * like.weight.detach().double()
        self._shift = -mean * self._scale
        if like.bias is not None:
            self._shift = self._shift + like.bias.detach().double()

    def plan(self) -> PlannedFold:
        attached_to = self._attached_to()
        into_output, why_not_output = self._layers(self._feeding, self._why_not_output)
        if into_output:
            compared_at = attached_to if attached_to is not None else self._name
            return self._fold(attached_to, into_output, (), f"into the output of {', '.join(into_output)}", compared_at)
        into_input, why_not_input = self._layers(self._fed, self._why_not_input)
        if into_input:
            return self._fold(attached_to, (), into_input, f"into the input of {', '.join(into_input)}", into_input[0])
        detail = f"into a separate scale and shift: {why_not_output}; {why_not_input}"
        return self._fold(attached_to, (), (), detail, attached_to if attached_to is not None else self._name)

    def _fold(
        self,
        attached_to: str | None,
        into_output: tuple[str, ...],
        into_input: tuple[str, ...],
        detail: str,
        compared_at: str,
    ) -> PlannedFold:
        return PlannedFold(
            self._name,
            attached_to,
            into_output,
            into_input,
            self._scale,
            self._shift,
            self._takes_residual,
            detail,
            compared_at,
        )

    def _attached_to(self) -> str | None:
        parent, _, child = self._name.rpartition(".")
        is_hosted = child == CHILD and isinstance(self._model.get_submodule(parent), WithBatchNorm)
        return parent if is_hosted else None

    def _layers(
        self,
        find: Callable[[Operation], Iterator[Operation | str]],
        why_not: Callable[[str], str],
    ) -> tuple[tuple[str, ...], str]:
        """The layers that ``find`` finds from all calls, if each can absorb the scale and shift; otherwise why not."""
        layers: dict[str, None] = {}
        for operation in self._operations:
            for end in find(operation):
                if isinstance(end, str):
                    return (), end
                layers[end.module or ""] = None
        for name in layers:
            if reason := why_not(name):
                return (), reason
        return tuple(layers), "" if layers else "nothing"

    def _feeding(self, operation: Operation) -> Iterator[Operation | str]:
        yield _feeding(self._run, operation)

    def _fed(self, operation: Operation) -> Iterator[Operation | str]:
        """The layers that ``operation`` feeds directly, or a reason for each other operation that it feeds."""
        if self._has_activation or self._takes_residual:
            yield "its activation follows it"
            return
        if operation.index in self._run.outputs:
            yield "it feeds the output"
            return
        waiting: list[tuple[Operation, int | None]] = [(operation, 1)]
        while waiting:
            step, axis = waiting.pop()
            for user in self._run.users_of(step):
                if user.kind is OpType.RESHAPE and axis is not None and user.index not in self._run.outputs:
                    waiting.append((user, axis_after(user, axis)))
                elif not user.kind.has_weights or user.module is None or user.inputs[:1] != (step.index,):
                    yield f"it feeds {user.label}"
                elif axis != (1 if user.kind is OpType.CONVOLUTION else len(step.shape) - 1):
                    yield f"its channels are not those of {user.label}"
                else:
                    yield user

    def _why_not_output(self, name: str) -> str:
        for operation in self._run.of_module(name):
            ends = self._norms_behind(operation)
            if ends != {self._name}:
                return f"{name} runs several times, and not always before it"
        return (
            _why_not_layer(self._model, self._run, name)
            or self._untraced.why_layer_may_feed_another(self._name, len(self._scale), name)
            or _why_not_scaled(self._model, self._run, name)
        )

    def _norms_behind(self, operation: Operation) -> set[str]:
        norms: set[str] = set()
        for user in self._run.users_of(operation):
            norms |= self._norms_behind(user) if user.kind is OpType.RESHAPE else {user.module or ""}
        return norms

    def _why_not_input(self, name: str) -> str:
        layer = self._model.get_submodule(name)
        for operation in self._run.of_module(name):
            step = operation
            while step.inputs and step.inputs[0] >= 0:
                step = self._run.operations[step.inputs[0]]
                if step.kind is not OpType.RESHAPE:
                    break
            if step.module != self._name:
                return f"{name} runs several times, and not always after it"
        if has_own_forward(layer):
            return f"{name} has a custom forward"
        return (
            _why_not_layer(self._model, self._run, name)
            or self._untraced.why_another_may_feed_layer(self._name, len(self._scale), name)
            or why_not_into_input(layer, self._shift)
        )


def feeding_layer(run: Trace, norm: Operation) -> str | None:
    """The name of the convolution or linear layer that feeds only this batch norm; None if there is none."""
    operation = _feeding(run, norm)
    return None if isinstance(operation, str) else operation.module


def _feeding(run: Trace, norm: Operation) -> Operation | str:
    """The layer that feeds only ``norm`` and has the same channels; or why there is none."""
    between: list[Operation] = []
    step = norm
    while True:
        if not step.inputs or step.inputs[0] < 0:
            return "nothing feeds it but the input"
        before = run.operations[step.inputs[0]]
        if len(run.users[before.index]) > 1 or before.index in run.outputs:
            return f"{before.label} feeds something else too"
        if before.kind is not OpType.RESHAPE:
            break
        between.insert(0, before)
        step = before
    if not before.kind.has_weights or before.module is None:
        return f"{before.label} feeds it"
    axis: int | None = 1 if before.kind is OpType.CONVOLUTION else len(before.shape) - 1
    return before if _axis_behind(between, axis) == 1 else f"its channels are not those of {before.label}"


def _axis_behind(operations: list[Operation], axis: int | None) -> int | None:
    for operation in operations:
        if axis is None:
            return None
        axis = axis_after(operation, axis)
    return axis


def _why_not_layer(model: nn.Module, run: Trace, name: str) -> str:
    """Why the weights of a layer cannot be changed; empty if they can."""
    layer = model.get_submodule(name)
    if not isinstance(layer, _PLAIN):
        return f"{name} is a {type(layer).__name__}"
    if reason := why_not_writable(layer, name):
        return reason
    if name in run.read:
        return f"a function uses the weight or the bias of {name}"
    for kind in ("weight", "bias"):
        tensor = own_tensor(layer, kind)
        if tensor is not None and is_shared(model, tensor):
            return f"the {kind} of {name} is shared with another layer"
    return ""


def _why_not_scaled(model: nn.Module, run: Trace, name: str) -> str:
    """Why scaling the weights of a layer with a custom forward does not scale its output; empty if it does."""
    layer = model.get_submodule(name)
    if not has_own_forward(layer):
        return ""
    # If the weights of a copy are multiplied channel by channel, the output must be multiplied likewise.
    one = copy.deepcopy(layer).double().eval()
    other = copy.deepcopy(one)
    weight, bias = own_tensor(other, "weight"), own_tensor(other, "bias")
    assert weight is not None
    transposed = isinstance(layer, _ConvNd) and layer.transposed
    if transposed:
        return f"{name} has a custom forward"
    factors = torch.linspace(0.5, 2.0, len(weight), dtype=torch.float64, device=weight.device)
    generator = torch.Generator().manual_seed(0)
    shape = run.of_module(name)[0].shapes[0]
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64).to(weight.device)
    with torch.no_grad():
        weight.mul_(factors.reshape(-1, *(1,) * (weight.dim() - 1)))
        if bias is not None:
            bias.mul_(factors)
        try:
            expected, got = one(inputs), other(inputs)
        except Exception:
            return f"{name} has a custom forward"
        # It may return several tensors, or reorder the channels.
        axis = 1 if isinstance(layer, _ConvNd) else -1
        if not isinstance(expected, Tensor) or expected.dim() < 2 or expected.shape[axis] != len(weight):
            return f"{name} has a custom forward"
        axis %= expected.dim()
        expected = expected * factors.reshape(*(-1 if dimension == axis else 1 for dimension in range(expected.dim())))
    return "" if torch.allclose(expected, got, rtol=1e-9, atol=1e-12) else f"{name} has a custom forward"


def has_own_forward(layer: nn.Module) -> bool:
    """Whether the class of a layer defines its own ``forward``, which is not PyTorch's."""
    kinds = [kind for kind in type(layer).__mro__ if "forward" in vars(kind) and kind is not WithBatchNorm]
    return kinds[0] not in _PLAIN
