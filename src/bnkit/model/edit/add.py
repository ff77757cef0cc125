"""Add batch normalization to a model after the layers that an activation follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnkit.argument_checks import check_bool, check_eps, check_momentum
from bnkit.errors import ModelError, SettingsError
from bnkit.mergeable_moments import Moments
from bnkit.model.change_list import UNCHANGED, Change, Changed, Changes
from bnkit.model.edit.add_plan import InsertionPoint, Where, insertion_point, why_not
from bnkit.model.edit.deepcopy_model import deepcopy_model
from bnkit.model.inspect.example import Example
from bnkit.model.inspect.layer_sites import sites_in
from bnkit.model.inspect.name_patterns import Patterns, matching
from bnkit.model.inspect.trace import trace
from bnkit.model.layers.attached_batch_norm import attach_batch_norm
from bnkit.model.preserve_state import isolate_from_ambient_modes, preserve_model, temporary_hooks
from bnkit.model.verify.verify_changed_model import check_comparable, error_of, exact_output, output_of

_DONE = "with batch norm added"


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
    insertion_points: dict[str, InsertionPoint] = {}
    reasons: dict[str, str] = {}
    for site in layers:
        left_out = "it is left out by include or exclude"
        reason = left_out if site.name not in wanted else why_not(site, sites, changed, run)
        point = reason or insertion_point(site, run, where)
        if isinstance(point, InsertionPoint):
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


def _moments_at(model: nn.Module, example: Example, insertion_points: dict[str, InsertionPoint]) -> dict[str, Moments]:
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
    model: nn.Module, point: InsertionPoint, moments: Moments | None, eps: float, momentum: float | None
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
