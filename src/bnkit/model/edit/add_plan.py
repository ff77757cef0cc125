"""Plan from a trace after which layers batch norm can be added, and where each goes; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bnkit.model.edit.fold_weights import is_shared, own_tensor
from bnkit.model.inspect.layer_sites import Site, Sites, plain_name
from bnkit.model.inspect.operation_types import OpType
from bnkit.model.inspect.supported_models import is_script
from bnkit.model.inspect.trace import Operation, Trace
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

Where = Literal["before_activation", "after_activation", "after_pooling"]
_BY_DIMENSIONS: dict[int, type[_BatchNorm]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
# At the end of a model, these turn the output of the last layer into probabilities and the like.
_OUTPUT_ACTIVATIONS = ("sigmoid", "tanh", "hardsigmoid", "softplus", "logsigmoid", "logsigmoidforward")


class InsertionPoint:
    """Where the batch norm of a layer goes: after which module, and in which form."""

    def __init__(self, module: str, operation: Operation, features_last: bool, where: str, takes_bias: bool) -> None:
        self.module = module
        self.features_last = features_last
        self.takes_bias = takes_bias
        shape = operation.shape
        self.channels = shape[-1] if features_last else shape[1]
        self.kind = BatchNorm1d if features_last else _BY_DIMENSIONS[max(1, len(shape) - 2)]
        self.detail = f"{self.kind.__name__}({self.channels}) {where}"

    def decide_bias(self, model: nn.Module, layer: nn.Module) -> None:
        """Decide whether the bias of ``layer`` moves: it does if it is a parameter of that layer alone."""
        if not self.takes_bias or getattr(layer, "bias", None) is None:
            return
        bias = own_tensor(layer, "bias")
        if bias is None:
            stays = "is computed from others"
        elif not isinstance(bias, nn.Parameter):
            stays = "is a buffer"
        elif is_shared(model, bias):
            stays = "is shared with another layer"
        else:
            self.detail += ", replacing the bias"
            return
        self.takes_bias = False
        self.detail += f"; its bias stays: it {stays}"


def why_not(site: Site, sites: Sites, model: nn.Module, run: Trace) -> str:  # noqa: PLR0911 - a list of reasons
    """Why ``site`` gets no batch norm; empty if it gets one."""
    if not site.is_called:
        return "a function uses its weight: there is no call to put a batch norm after"
    if site.is_normalised:
        return "a normalisation follows already"
    if not site.activation:
        if site.is_gate:
            return "it only scales other values"
        return f"{'it is an output layer: ' if site.reaches_output else ''}no activation follows"
    if (
        site.reaches_output
        and not site.feeds
        and (site.kind is OpType.LINEAR or site.activation in _OUTPUT_ACTIVATIONS)
    ):
        return f"it is an output layer: {site.activation} makes the output of it"
    if site.feeds and all(name in _names(sites) and sites.called(name).is_gate for name in site.feeds):
        return "it only computes weights for other values (squeeze and excite)"
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent in _parents(model, site.name)):
        return "the fast path of nn.TransformerEncoderLayer would use its weight and pass the batch norm by"
    return _why_not_normed(model.get_submodule(site.name), run.of_module(site.name))


def _why_not_normed(layer: nn.Module, operations: tuple[Operation, ...]) -> str:
    """Why no batch norm can run on the output of ``layer``; empty if one can."""
    if is_script(layer):
        return "it is compiled"
    dimensions = len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0
    for operation in operations:
        if len(operation.shape) != dimensions + 2 if dimensions else len(operation.shape) < 2:
            return (
                f"it runs without a batch dimension, on {operation.shapes[0] if operation.shapes else operation.shape}"
            )
    return ""


def _parents(model: nn.Module, name: str) -> Iterator[nn.Module]:
    parts = name.split(".")
    return (model.get_submodule(".".join(parts[:count])) for count in range(len(parts)))


def _names(sites: Sites) -> set[str]:
    return {name for site in sites for name in site.names}


def insertion_point(site: Site, run: Trace, where: Where) -> InsertionPoint | str:  # noqa: PLR0911 - a list of reasons
    """Where the batch norm of ``site`` goes, or why it cannot go there."""
    operations = run.of_module(site.name)
    features_last = site.kind is OpType.LINEAR
    if not all(operation.is_single for operation in operations):
        return "it returns more than one tensor"
    if where == "before_activation":
        return InsertionPoint(site.name, operations[0], features_last, f"before {site.activation}", takes_bias=True)
    behind = {_activation_behind(operation, run) for operation in operations}
    if where == "after_pooling":
        behind = {None if operation is None else _pooling_behind(operation, run) for operation in behind}
    operation = next(iter(behind)) if len(behind) == 1 else None
    if operation is None:
        return "more than one way leads on from it, or it runs more than once"
    if any(user.kind is OpType.NORM for user in run.users_of(operation)):
        return "a normalisation follows already"
    if operation.module is None or not operation.is_call:
        return f"{operation.name} after it is a function: there is no module to put a batch norm after"
    if run.calls[operation.module] != len(operations):
        return f"{operation.module} after it runs elsewhere too: a batch norm there would mix the two"
    if features_last is False and len(operation.shape) < 3:
        features_last = True
    return InsertionPoint(
        operation.module,
        operation,
        features_last,
        f"after {plain_name(operation)} ({operation.module})",
        takes_bias=False,
    )


def _activation_behind(start: Operation, run: Trace) -> Operation | None:
    """The activation that the values of ``start`` reach, if there is exactly one path to it."""
    operation = start
    while True:
        users = list(run.users_of(operation))
        if len(users) != 1:
            return None
        operation = users[0]
        if operation.kind is OpType.ACTIVATION:
            return operation
        if not operation.kind.keeps_features or operation.kind is OpType.MERGE:
            return None


def _pooling_behind(activation: Operation, run: Trace) -> Operation:
    users = list(run.users_of(activation))
    return users[0] if len(users) == 1 and users[0].kind is OpType.POOL else activation
