"""One network of somebody's own as the arms of a comparison: batch norm is put in, or taken out, by bnkit."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnkit.errors import FactoryError, ModelError
from bnkit.experiments.networks.arms import Arm
from bnkit.model.edit.add import add
from bnkit.model.edit.convert import convert
from bnkit.model.edit.remove import remove
from bnkit.model.edit.replace import Kind
from bnkit.model.inspect.recognise import BatchNormLike, NotRecognised, places
from bnkit.model.inspect.trace import as_it_was
from bnkit.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d

_OURS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
# What batch norms become in an arm that is not ours. The others are ours, by the kernel of the arm.
_KINDS: dict[str, Kind] = {"torch": "torch", "group_norm": "group_norm"}
_BY_HAND = "otherwise write both networks, as a dictionary of factories"


def make_twin(model: nn.Module, arm: Arm, example: Tensor, key: str) -> nn.Module:
    """The twin of ``model`` for ``arm``: with batch norm in its places, or without.

    A network that has batch norm anywhere is taken to have it everywhere it should: without is ``remove``, with is the
    network as it is, its batch norms those of the arm. One that has none is as it is without, and with is ``add``. In both
    twins, parameters of one name are equal.

    Args:
        model: Left as it is.
        arm: "no_batch_norm", or how to normalise.
        example: Inputs that it can be run on, (N, *).
        key: What messages call it.

    Raises:
        FactoryError: There is nothing to remove and nowhere to add, or the network does not run on such inputs.
    """
    found = places(model)
    for place in found:
        if isinstance(place.found, NotRecognised) and place.found.is_subclass:
            raise FactoryError(
                f"network {key}: {place.name or 'the model'} is a {type(place.module).__name__}, which {place.found.reason}; "
                f"expected batch norms that compute what PyTorch's do; {_BY_HAND}"
            )
    has_batch_norm = any(isinstance(place.found, BatchNormLike) for place in found)
    try:
        if arm.name == "no_batch_norm":
            return remove(model, example).model if has_batch_norm else model
        return _normalised(model if has_batch_norm else _added(model, example), arm)
    except ModelError as error:
        raise FactoryError(f"network {key}: {error}") from error


def materialize_lazy(model: nn.Module, example: Tensor) -> None:
    """Give the lazy layers of ``model`` their weights, as its first forward pass would."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        with as_it_was(model), torch.no_grad():
            model.eval()(example.clone())


def random_example(input_shape: tuple[int, ...]) -> Tensor:
    """Two inputs of that shape, standard normal: as data are after normalisation."""
    # A generator of its own: the draws of weights are counted.
    return torch.randn((2, *input_shape), generator=torch.Generator().manual_seed(0))


def _added(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``model`` with batch norm.

    Raises:
        ModelError: There is no place for it.
    """
    added, changes = add(model, example)
    if not changes.made:
        why = "; ".join(f"{change.site or 'the model'}: {change.detail}" for change in changes[:3])
        raise ModelError(
            f"{type(model).__name__} has no batch norm to take out, and no place to put one in ({why}); expected batch norm, "
            f"or a convolution or linear layer that an activation follows; {_BY_HAND}"
        )
    return added


def _normalised(model: nn.Module, arm: Arm) -> nn.Module:
    """A copy of ``model`` whose batch norms are those of ``arm``."""
    converted = convert(model, _KINDS.get(arm.name, "bnkit")).model
    for module in converted.modules():
        # The kernel is settled: "auto" may mean another one on another machine.
        if isinstance(module, _OURS) and (arm.name != "batch_norm" or module.kernel == "auto"):
            module.kernel = arm.kernel
    return converted
