"""Norms that did not run on the example, but may run in place of a batch norm that did.

A network may have several alternative norms (one for each domain, width or kind of example), and select one by a flag,
its mode, or the size of its input. The example shows only one of them. Folding this one into a layer would be wrong for
the others.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

from bnkit.model.edit.fold_weights import out_channels
from bnkit.model.inspect.operation_types import OpType, type_of_module
from bnkit.model.inspect.trace import Trace

_CHOICES = (nn.ModuleList, nn.ModuleDict)
# These normalise over the channels of each position; they are not alternatives to a batch norm.
_OF_PLACES = (nn.LayerNorm, nn.RMSNorm)
_UNKNOWN = -1


class UntracedNorms:
    """The norms of ``model`` that did not run, and the layers that may feed them.

    Args:
        model: The model that ran.
        run: Its trace on the example.
    """

    def __init__(self, model: nn.Module, run: Trace) -> None:
        self._model = model
        used = {operation.module for operation in run.operations} | {name for name, calls in run.calls.items() if calls}
        self._ran = {model.get_submodule(name) for name in used if name is not None}
        self._norms = list(self._norms_not_run())

    def why_layer_may_feed_another(self, norm: str, channels: int, layer: str) -> str:
        """Why ``layer``, which feeds ``norm``, may also feed a norm that did not run; empty if nothing suggests it."""
        other = self._alternative(norm, layer)
        if other is None:
            fitting = ((name, has_layer) for name, count, has_layer in self._norms if count in (channels, _UNKNOWN))
            other = next((name for name, has_layer in fitting if not has_layer), None)
        return "" if other is None else f"{layer} may feed {other} too, which did not run on the example"

    def why_another_may_feed_layer(self, norm: str, channels: int, layer: str) -> str:
        """Why a norm that did not run may also feed ``layer``, which ``norm`` feeds; empty if nothing suggests it."""
        other = self._alternative(norm, layer)
        if other is None:
            other = next((name for name, count, _ in self._norms if count in (channels, _UNKNOWN)), None)
        return "" if other is None else f"{other}, which did not run on the example, may feed {layer} too"

    def _norms_not_run(self) -> Iterator[tuple[str, int, bool]]:
        """Each norm that did not run: its name, its channels, and whether it has its own layer that did not run either.

        Such a layer has the same number of channels, and is registered just before the norm in the same module, or
        contains it: the two are a separate branch, such as an auxiliary head.
        """
        before: tuple[str, nn.Module] | None = None
        for name, module in self._model.named_modules():
            kind = type_of_module(module)
            if kind is OpType.NORM and not isinstance(module, _OF_PLACES) and not self._has_run(module):
                channels = _channels(module)
                parent = name.rpartition(".")[0]
                has_layer = (
                    before is not None
                    and parent in (before[0].rpartition(".")[0], before[0])
                    and not self._has_run(before[1])
                    and out_channels(before[1]) == channels
                )
                yield name, channels, has_layer
            if kind is OpType.NORM or (kind is not None and kind.has_weights):
                before = name, module

    def _alternative(self, norm: str, layer: str) -> str | None:
        """A module that did not run, in one list with ``norm`` or its container, if ``layer`` is not in that list."""
        parts = norm.split(".")
        for count in range(len(parts) - 1, -1, -1):
            choices = self._model.get_submodule(".".join(parts[:count]))
            within = ".".join([*parts[:count], ""])
            if not isinstance(choices, _CHOICES):
                continue
            if layer.startswith(within):
                return None  # the list holds the steps of a sequence
            for name, other in choices.named_children():
                if name != parts[count] and not self._has_run(other):
                    return f"{within}{name}"
        return None

    def _has_run(self, module: nn.Module) -> bool:
        return any(part in self._ran for part in module.modules())


def _channels(norm: nn.Module) -> int:
    tensors = [tensor for tensor in (*norm._parameters.values(), *norm._buffers.values()) if tensor is not None]
    if any(map(is_lazy, tensors)):
        return _UNKNOWN
    sizes = [tensor.numel() for tensor in tensors if tensor.dim() == 1]
    return sizes[0] if sizes else int(getattr(norm, "num_features", getattr(norm, "num_channels", 0)))
