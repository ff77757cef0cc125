"""Add batch normalization to a model after the layers that an activation follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from bnkit.arguments import check_bool, check_eps, check_momentum
from bnkit.errors import ModelError, SettingsError
from bnkit.model.changes import UNCHANGED, Change, Changed, Changes
from bnkit.model.edit.copy import deepcopy_model
from bnkit.model.edit.fold_weights import is_shared, own_tensor
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.operations import OpType
from bnkit.model.inspect.patterns import Patterns, matching
from bnkit.model.inspect.sites import Site, Sites, plain_name, sites_in
from bnkit.model.inspect.supported import is_script
from bnkit.model.inspect.trace import Operation, Trace, trace
from bnkit.model.layers.attached import attach_batch_norm
from bnkit.model.state import isolate_from_ambient_modes, preserve_model, temporary_hooks
from bnkit.model.verify.changed_model import check_comparable, error_of, exact_output, output_of
from bnkit.moments import Moments
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

Where = Literal["before_activation", "after_activation", "after_pooling"]
_BY_DIMENSIONS: dict[int, type[_BatchNorm]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_DONE = "with batch norm added"
# At the end of a model, these turn the output of the last layer into probabilities and the like.
_OF_OUTPUTS = ("sigmoid", "tanh", "hardsigmoid", "softplus", "logsigmoid", "logsigmoidforward")


@isolate_from_ambient_modes
def add(
    model: nn.Module,
    example_inputs: Any,
    *,
    preserve: bool = False,
    where: Where = "before_activation",
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
) -> Changed:
    """Return a copy of ``model`` with batch normalization after each layer that an activation follows, and the changes.

    The batch norm runs between a convolution or linear layer and its activation (Ioffe & Szegedy 2015, section 3.2),
    and is a child of that layer: ``conv1.batch_norm`` next to ``conv1.weight``. All existing names stay, so old
    checkpoints still load. The layer's bias, which batch normalization would cancel, moves into the running mean.

    Output layers, layers that a normalisation already follows, squeeze-and-excite, and attention (no activation follows
    its projections) are not changed. An existing optimizer holds the parameters of ``model``, not of the copy: make a
    new one.

    Args:
        model: Not changed.
        example_inputs: A tensor, a tuple (positional arguments) or a dictionary (keywords) that ``model`` takes.
        preserve: For a trained model: take statistics, gamma and beta from the example, so that in evaluation mode the copy
            computes what ``model`` does. If False, the initialisation is the usual one (mean 0, variance 1, gamma 1, beta 0).
        where: "before_activation", "after_activation", or "after_pooling" (after the pooling that follows the
            activation, if there is one). The latter two keep the bias of the layer.
        include, exclude: Dotted names of layers, with shell wildcards, to select and to leave out.
        eps, momentum: Arguments of the batch norms.

    Returns:
        ``(model, changes)``. With ``preserve``, ``changes.error`` is the difference of the outputs on the example.

    Raises:
        ModelError: The model raises on the example, cannot be copied, or has no layer to normalise; or the copy does
            not run or, with ``preserve``, computes something else.
        SettingsError: An argument is invalid, or a pattern matches no layer.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> added, changes = add(model, torch.ones(1, 1, 4, 4))
        >>> print(changes)
        site  action  detail
        0     added   BatchNorm2d(4) before relu, replacing the bias
        3     kept    it is an output layer: no activation follows
        1 changed, 1 kept
    """
    if where not in ("before_activation", "after_activation", "after_pooling"):
        raise SettingsError(f"where={where!r}; expected 'before_activation', 'after_activation' or 'after_pooling'")
    check_bool("preserve", preserve)
    check_eps(eps)
    check_momentum(momentum)
    example, changed = Example(example_inputs), deepcopy_model(model)
    run = trace(changed, example)
    if preserve:
        check_comparable(run.output, changed)
    sites = sites_in(run, changed)
    layers = [site for site in sites if site.kind.has_weights]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} ran no convolution or linear layer on the example; expected a model with something to "
            "normalise"
        )
    wanted = set(matching([site.name for site in layers], include, exclude))
    insertion_points: dict[str, _InsertionPoint] = {}
    reasons: dict[str, str] = {}
    for site in layers:
        left_out = "it is left out by include or exclude"
        reason = left_out if site.name not in wanted else _why_not(site, sites, changed, run)
        point = reason or _insertion_point(site, run, where)
        if isinstance(point, _InsertionPoint):
            insertion_points[site.name] = point
        else:
            reasons[site.name] = point

    measured = _moments_at(changed, example, insertion_points) if preserve else {}
    for name, point in insertion_points.items():
        point.decide_bias(changed, changed.get_submodule(name))
        _insert(changed, point, measured.get(name), eps, momentum)
    changes = [
        Change(site.name, "added", insertion_points[site.name].detail)
        if site.name in insertion_points
        else Change(site.name, UNCHANGED, reasons[site.name])
        for site in layers
    ]
    changes += [Change(name, UNCHANGED, "it did not run on the example") for name in sites.never_ran]
    output = output_of(changed, example, _DONE)
    error = None
    if preserve:
        error = error_of(run.output, output, changed, _DONE, lambda: exact_output(model, example))
    return Changed(changed, Changes(changes, error))


class _InsertionPoint:
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


def _why_not(site: Site, sites: Sites, model: nn.Module, run: Trace) -> str:  # noqa: PLR0911 - a list of reasons
    """Why ``site`` gets no batch norm; empty if it gets one."""
    if not site.is_called:
        return "a function uses its weight: there is no call to put a batch norm after"
    if site.is_normalised:
        return "a normalisation follows already"
    if not site.activation:
        if site.is_gate:
            return "it only scales other values"
        return f"{'it is an output layer: ' if site.reaches_output else ''}no activation follows"
    if site.reaches_output and not site.feeds and (site.kind is OpType.LINEAR or site.activation in _OF_OUTPUTS):
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


def _insertion_point(site: Site, run: Trace, where: Where) -> _InsertionPoint | str:  # noqa: PLR0911 - a list of reasons
    """Where the batch norm of ``site`` goes, or why it cannot go there."""
    operations = run.of_module(site.name)
    features_last = site.kind is OpType.LINEAR
    if not all(operation.is_single for operation in operations):
        return "it returns more than one tensor"
    if where == "before_activation":
        return _InsertionPoint(site.name, operations[0], features_last, f"before {site.activation}", takes_bias=True)
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
    return _InsertionPoint(
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


def _moments_at(model: nn.Module, example: Example, insertion_points: dict[str, _InsertionPoint]) -> dict[str, Moments]:
    """The moments of the future input of each batch norm."""
    by_name: dict[str, Moments] = {}

    def merge_into(name: str, features_last: bool) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            moments = Moments.of(output.flatten(0, -2) if features_last else output)
            by_name[name] = by_name[name].merge(moments) if name in by_name else moments

        return hook

    hooks = (
        model.get_submodule(point.module).register_forward_hook(merge_into(name, point.features_last))
        for name, point in insertion_points.items()
    )
    with temporary_hooks(hooks), preserve_model(model), torch.no_grad():
        example.fresh().run(model.eval())
    return by_name


def _insert(
    model: nn.Module, point: _InsertionPoint, moments: Moments | None, eps: float, momentum: float | None
) -> None:
    layer = model.get_submodule(point.module)
    like = next((tensor for tensor in (*layer.parameters(), *model.parameters()) if tensor.is_floating_point()), None)
    norm = point.kind(
        point.channels,
        eps=eps,
        momentum=momentum,
        device=None if like is None else like.device,
        dtype=None if like is None else like.dtype,
    )
    norm.train(layer.training)
    if moments is not None:
        assert norm.running_mean is not None and norm.running_var is not None
        variance = moments.variance() if moments.count > 1 else torch.ones_like(moments.mean)
        with torch.no_grad():
            norm.running_mean.copy_(moments.mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((norm.running_var.double() + eps).sqrt())
            norm.bias.copy_(moments.mean)
    attach_batch_norm(
        layer,
        norm,
        features_last=point.features_last,
        keeps_outputs=moments is not None,
        take_bias=point.takes_bias,
    )
