"""Convert a user's network to the arms of a comparison by adding or removing batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnkit.errors import FactoryError, ModelError
from bnkit.experiments.networks.normalization_kinds import Arm
from bnkit.model.edit.add import add
from bnkit.model.edit.convert import convert
from bnkit.model.edit.remove import remove
from bnkit.model.edit.replace import ReplacementKind
from bnkit.model.inspect.recognise_batch_norm import BatchNormLike, Unrecognized, batch_norm_sites
from bnkit.model.preserve_state import preserve_model
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

_OURS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
# What batch norms are converted to in arms without bnkit's layers.
_KINDS: dict[str, ReplacementKind] = {"torch": "torch", "group_norm": "group_norm"}
_BY_HAND = "otherwise write both networks, as a dictionary of factories"


def make_twin(model: nn.Module, arm: Arm, example: Tensor, key: str) -> nn.Module:
    """``model`` converted to ``arm``: with or without batch norm.

    A network with any batch norm is assumed to have it wherever it should: ``remove`` makes the one without. To a network
    without, ``add`` adds it. In both, parameters of the same name are equal.

    Args:
        model: The network, which is not changed.
        arm: "no_batch_norm", or a kind of normalisation.
        example: Inputs that it runs on, (N, *).
        key: Its name in messages.

    Raises:
        FactoryError: If there is nothing to remove and nowhere to add, or the network does not run on such inputs.
    """
    sites = batch_norm_sites(model)
    for site in sites:
        if isinstance(site.recognised_as, Unrecognized) and site.recognised_as.is_subclass:
            raise FactoryError(
                f"network {key}: {site.name or 'the model'} is a {type(site.module).__name__}, which {site.recognised_as.reason}; "
                f"expected batch norms that compute what PyTorch's do; {_BY_HAND}"
            )
    has_batch_norm = any(isinstance(site.recognised_as, BatchNormLike) for site in sites)
    try:
        if arm.name == "no_batch_norm":
            return remove(model, example).model if has_batch_norm else model
        return _normalised(model if has_batch_norm else _added(model, example), arm)
    except ModelError as error:
        raise FactoryError(f"network {key}: {error}") from error


def materialize_lazy(model: nn.Module, example: Tensor) -> None:
    """Materialize the lazy layers of ``model`` by a forward pass."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        with preserve_model(model), torch.no_grad():
            model.eval()(example.clone())


def random_example(input_shape: tuple[int, ...]) -> Tensor:
    """Two standard normal inputs of that shape, like normalised data."""
    # Its own generator: the draws of the global one are counted for the weights.
    return torch.randn((2, *input_shape), generator=torch.Generator().manual_seed(0))


def _added(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``model`` with batch norm.

    Raises:
        ModelError: If there is no place for it.
    """
    added, changes = add(model, example)
    if not changes.made:
        why = "; ".join(f"{change.site or 'the model'}: {change.detail}" for change in changes[:3])
        raise ModelError(
            f"{type(model).__name__} has no batch norm to remove, and no place to add one ({why}); expected batch norm, "
            f"or a convolution or linear layer that an activation follows; {_BY_HAND}"
        )
    return added


def _normalised(model: nn.Module, arm: Arm) -> nn.Module:
    """A copy of ``model`` whose batch norms are those of ``arm``."""
    converted = convert(model, _KINDS.get(arm.name, "bnkit")).model
    for module in converted.modules():
        # Not "auto", which may choose another kernel on another machine.
        if isinstance(module, _OURS) and (arm.name != "batch_norm" or module.kernel == "auto"):
            module.kernel = arm.kernel
    return converted
