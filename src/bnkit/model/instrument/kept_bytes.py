"""Measure the bytes that each batch norm keeps for the backward pass, and those that ``recompute`` frees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bnkit.memory.recompute import recompute
from bnkit.model.inspect.example import Example


@dataclass
class KeptBytes:
    """The bytes that a forward pass keeps for the backward pass.

    Attributes:
        whole: For the whole model, without parameters and buffers; a storage that several layers keep counts once.
        by_layer: By the name of the layer that was the first to keep them.
    """

    whole: int = 0
    by_layer: Counter[str] = field(default_factory=Counter)


def kept_bytes(model: nn.Module, example: Example, layers: Mapping[str, nn.Module]) -> KeptBytes:
    """The bytes that a forward pass of ``model`` on ``example``, in its current modes, keeps in total and by layer.

    Raises:
        ModelError: The model raises.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    sizes, running = KeptBytes(), list[str]()
    alive: list[Tensor] = []  # kept alive, so that addresses are not reused

    def pack(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            own.add(storage._cdata)
            alive.append(tensor)
            sizes.whole += storage.nbytes()
            if running:
                sizes.by_layer[running[-1]] += storage.nbytes()
        return tensor

    with (
        torch.enable_grad(),
        _calls_around_layers(layers, running.append, running.remove),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        example.fresh().run(model)
    return sizes


def bytes_saved_by_recompute(model: nn.Module, example: Example, layers: Mapping[str, nn.Module]) -> KeptBytes:
    """The bytes that ``recompute`` saves; a dropped tensor counts for the last of ``layers`` that had run by then.

    Raises:
        ModelError: The model raises, or cannot be recomputed.
    """
    sizes, last = KeptBytes(), ""
    with torch.enable_grad():
        with recompute(model) as recomputation:

            def count(name: str) -> None:
                nonlocal last
                dropped = recomputation.bytes_dropped - sizes.whole
                if last and dropped:
                    sizes.by_layer[last] += dropped
                sizes.whole += dropped
                last = name

            with _calls_around_layers(layers, None, count):
                output = example.fresh().run(model)
        count("")
        del output
    return sizes


@contextmanager
def _calls_around_layers(
    layers: Mapping[str, nn.Module], entered: Callable[[str], Any] | None, left: Callable[[str], Any]
) -> Iterator[None]:
    """Inside, ``entered`` and ``left`` are called with the name of each of ``layers`` that runs."""

    def hooks_of(name: str, module: nn.Module) -> list[Any]:
        def before(*_: Any) -> None:
            if entered is not None:
                entered(name)

        def after(*_: Any) -> None:
            left(name)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    handles = [handle for name, module in layers.items() for handle in hooks_of(name, module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
