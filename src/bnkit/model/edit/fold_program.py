"""Fold batch normalization into the convolutions and linear layers of a program of ``torch.export``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from bnkit.errors import ModelError
from bnkit.model.change_list import UNCHANGED, Change, Changes
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.name_patterns import Patterns, matching
from bnkit.model.verify.verify_changed_model import check_comparable
from bnkit.model.verify.verify_written_file import compare_programs

_ATEN = torch.ops.aten
# The positions of the arguments training and eps of each operation that computes a batch norm.
_NORMS: dict[Any, tuple[int | None, int]] = {
    _ATEN.batch_norm.default: (5, 7),
    _ATEN.cudnn_batch_norm.default: (5, 7),
    _ATEN.native_batch_norm.default: (5, 7),
    _ATEN._native_batch_norm_legit.default: (5, 7),
    _ATEN._native_batch_norm_legit_no_training.default: (None, 6),
}
# Those that always normalise by the batch.
_BY_BATCH = (_ATEN._native_batch_norm_legit.no_stats, _ATEN._native_batch_norm_legit_functional.default)
_CONVOLUTIONS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default, _ATEN.convolution.default)
_TRANSPOSED: dict[Any, int] = {  # the position of the number of groups
    _ATEN.conv_transpose1d.default: 6,
    _ATEN.conv_transpose2d.input: 6,
    _ATEN.conv_transpose3d.input: 6,
}
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, _ATEN.linear.default)


class ChangedProgram(NamedTuple):
    """A changed copy of an exported program, and the changes.

    Attributes:
        model: A copy of the program given, changed.
        changes: What was changed, and what was kept and why.
    """

    model: ExportedProgram
    changes: Changes


@dataclass(frozen=True)
class _Norm:
    """A batch norm of a program.

    Attributes:
        name: The dotted name of the exported module; the name of its node if that is unknown.
        node: The operation.
        result: The node of its output: ``node`` itself, or the first entry of its results.
        why_not: Why it cannot be folded; empty if it can.
    """

    name: str
    node: Node
    result: Node
    why_not: str


def fold_program(
    program: ExportedProgram, example_inputs: Any, include: Patterns | None, exclude: Patterns | None
) -> ChangedProgram:
    """Fold the batch norms that follow a convolution or linear layer of ``program``, in a copy; see ``fold``.

    A batch norm is folded into the weights of the layer that feeds only this batch norm. A layer without a bias gets
    one, which replaces the batch norm's bias or running mean in the ``state_dict``.

    Raises:
        ModelError: The program was exported in training mode, has no batch norm, raises on the example, or the folded one
            computes something else.
    """
    example, folded = Example(example_inputs), _copy(program)
    graph = folded.graph_module.graph
    tensors = _Tensors(folded)
    norms = list(_norms(graph.nodes, tensors))
    if not norms:
        raise ModelError(
            "the exported program holds no batch norm; expected one with something to fold (it may be folded already)"
        )
    wanted = set(matching([norm.name for norm in norms], include, exclude))
    changes = []
    for norm in norms:
        reason = norm.why_not if norm.name in wanted else "it is left out by include or exclude"
        if reason:
            changes.append(Change(norm.name, UNCHANGED, reason))
            continue
        layer = norm.node.args[0]
        assert isinstance(layer, Node)
        _fold(norm, layer, tensors)
        changes.append(Change(norm.name, "folded", f"into the output of {_module_name(layer)}"))
    graph.eliminate_dead_code()
    tensors.drop_unused()
    graph.lint()
    folded.graph_module.recompile()
    folded.validate()  # type: ignore[no-untyped-call]
    before = program.module()
    with torch.no_grad():
        check_comparable(example.fresh().run(before), before)
    return ChangedProgram(
        folded, Changes(changes, compare_programs(before, folded, example, "with its batch norm folded"))
    )


def _copy(program: ExportedProgram) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch's own code
        copied = copy.deepcopy(program)
    # Copying a graph renames nodes like "input", a Python builtin, but not their names in the signature.
    for node, original in zip(copied.graph_module.graph.nodes, program.graph_module.graph.nodes, strict=True):
        node.name = original.name
    return copied


class _Tensors:
    """The parameters and buffers of a program, by the nodes of its graph."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        signature = program.graph_signature
        self._keys = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._constants = {key for key in self._keys.values() if key not in program.state_dict}

    def of(self, node: Any) -> Tensor | None:
        """The parameter or buffer of ``node``; None for any other node."""
        key = self._keys.get(node.name) if isinstance(node, Node) and node.op == "placeholder" else None
        return None if key is None or key in self._constants else self._program.state_dict[key]

    def is_shared(self, node: Node) -> bool:
        """Whether another operation uses ``node``, or another name refers to the same memory."""
        tensor = self.of(node)
        assert tensor is not None
        address = tensor.untyped_storage()._cdata
        same = [other for other in self._program.state_dict.values() if other.untyped_storage()._cdata == address]
        return len(node.users) > 1 or len(same) > 1

    def set(self, node: Node, value: Tensor, like: Tensor) -> None:
        """Set the tensor of ``node`` to ``value``, in the dtype and on the device of ``like``."""
        key = self._keys[node.name]
        old = self._program.state_dict[key]
        new = value.to(like)
        self._program.state_dict[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        node.meta["val"] = node.meta["val"].to(new.dtype)

    def rename_output(self, old: Node, new: Node) -> None:
        """Make the program return ``new`` instead of ``old``."""
        self._program.graph_signature.replace_all_uses(old.name, new.name)

    def drop_unused(self) -> None:
        """Remove unused parameters and buffers from the program."""
        signature = self._program.graph_signature
        for node in list(self._program.graph_module.graph.nodes):
            if node.op == "placeholder" and not node.users and node.name in self._keys:
                specs = [spec for spec in signature.input_specs if getattr(spec.arg, "name", None) == node.name]
                signature.input_specs.remove(*specs)
                self._program.state_dict.pop(self._keys[node.name], None)
                self._program.constants.pop(self._keys[node.name], None)
                self._program.graph_module.graph.erase_node(node)


def _norms(nodes: Any, tensors: _Tensors) -> Iterator[_Norm]:
    for node in nodes:
        if node.op != "call_function":
            continue
        if node.target in _BY_BATCH or (node.target in _NORMS and _is_training(node)):
            raise ModelError(
                f"{_module_name(node)} of the exported program normalises by the batch: it was exported in training mode, or has "
                "no running statistics; expected a program of model.eval()"
            )
        if node.target in _NORMS:
            parts = [user for user in node.users if user.target is not getattr]
            is_single = isinstance(node.meta.get("val"), Tensor)
            result = node if is_single else next((user for user in parts if user.args[1:] == (0,)), node)
            why_not = _why_not(node, tensors)
            if not is_single and parts != [result]:
                why_not = "something else than its output is used"
            yield _Norm(_module_name(node), node, result, why_not)


def _is_training(node: Node) -> bool:
    position = _NORMS[node.target][0]
    return position is not None and bool(node.args[position])


def _why_not(norm: Node, tensors: _Tensors) -> str:
    """Why a batch norm cannot be folded into the layer that feeds it; empty if it can."""
    return next(_obstacles(norm, tensors), "")


def _obstacles(norm: Node, tensors: _Tensors) -> Iterator[str]:
    layer, gamma, beta, mean, variance = norm.args[:5]
    if tensors.of(mean) is None or tensors.of(variance) is None:
        yield "its running statistics are not buffers of the program"
    if any(value is not None and tensors.of(value) is None for value in (gamma, beta)):
        yield "its weight or its bias is computed"
    if not isinstance(layer, Node) or layer.target not in _LAYERS:
        before = f"{_module_name(layer)} ({layer.target})" if isinstance(layer, Node) else str(layer)
        yield f"{before} feeds it, which is not a convolution or linear layer"
        return
    name = _module_name(layer)
    if len(layer.users) > 1:
        yield f"{name} feeds something else too"
    if layer.target is _ATEN.linear.default and layer.meta["val"].dim() != 2:
        yield f"its channels are not those of {name}"
    own = [node for node in _weights(layer) if node is not None]
    if any(tensors.of(node) is None for node in own):
        yield f"the weight or the bias of {name} is computed"
        return
    if any(tensors.is_shared(node) for node in own):
        yield f"the weight or the bias of {name} is shared with another layer"
    holder = mean if beta is None else beta
    if len(own) == 1 and (not isinstance(holder, Node) or tensors.is_shared(holder)):
        yield f"{name} has no bias, and the batch norm runs several times"


def _weights(layer: Node) -> tuple[Any, Any]:
    return layer.args[1], layer.args[2] if len(layer.args) > 2 else layer.kwargs.get("bias")


def _fold(norm: _Norm, layer: Node, tensors: _Tensors) -> None:
    """Put the scale and the shift of ``norm`` into the weights of ``layer``."""
    _, gamma, beta, mean, variance = (tensors.of(node) for node in norm.node.args[:5])
    assert mean is not None and variance is not None
    eps = norm.node.args[_NORMS[norm.node.target][1]]
    assert isinstance(eps, float)
    scale = (variance.detach().double() + eps).rsqrt() * (1.0 if gamma is None else gamma.detach().double())
    shift = (0.0 if beta is None else beta.detach().double()) - mean.detach().double() * scale
    weight_node, bias_node = _weights(layer)
    weight, bias = tensors.of(weight_node), tensors.of(bias_node)
    assert weight is not None
    tensors.set(weight_node, _scaled(weight.detach().double(), scale, _groups_if_transposed(layer)), weight)
    if bias is not None:
        tensors.set(bias_node, bias.detach().double() * scale + shift, bias)
    else:
        holder = norm.node.args[2] if norm.node.args[2] is not None else norm.node.args[3]
        assert isinstance(holder, Node)
        layer.args = (*layer.args[:2], holder, *layer.args[3:])
        layer.kwargs = {key: value for key, value in layer.kwargs.items() if key != "bias"}
        tensors.set(holder, shift, weight)
    norm.result.replace_all_uses_with(layer)
    tensors.rename_output(norm.result, layer)
    norm.node.graph.erase_node(norm.result)
    if norm.result is not norm.node:
        norm.node.graph.erase_node(norm.node)


def _groups_if_transposed(layer: Node) -> int | None:
    """The number of groups of a transposed convolution; None for any other layer."""
    if layer.target is _ATEN.convolution.default:
        return int(layer.args[8]) if layer.args[6] else None  # type: ignore[arg-type]
    position = _TRANSPOSED.get(layer.target)
    if position is None:
        return None
    return int(layer.args[position]) if len(layer.args) > position else 1  # type: ignore[arg-type]


def _scaled(weight: Tensor, scale: Tensor, groups: int | None) -> Tensor:
    """``weight`` with its output channels scaled: the first dimension, and the second of transposed convolutions."""
    ones = (1,) * (weight.dim() - 2)
    if groups is None:
        return weight * scale.reshape(-1, 1, *ones)
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape)


def _module_name(node: Node) -> str:
    """The dotted name of the innermost module that ``node`` was part of; its own name if that is unknown."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack and stack[-1][0] else node.name
