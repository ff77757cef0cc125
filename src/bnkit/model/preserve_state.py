"""Save and restore random states, a model's modes, buffers and attributes, and PyTorch's modes around a call."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bnkit.errors import ModelError
from bnkit.model.inspect.supported_models import is_script

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Exactly these classes, not lookalikes: iterating over a data set might take an hour.
_CONTAINERS = (dict, list, set, deque)
# Tensors of fewer values are compared by PyTorch.
_LITTLE = 4096
# The integer dtype that elements of each size (in bytes) are compared as, bit by bit.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class RngState:
    """The current state of torch's, NumPy's and Python's random generators, for ``restore``."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        # A device that has not been used has no generator yet; reading its state would create one.
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._devices = torch.cuda.get_rng_state_all() if used else None

    def restore(self) -> None:
        """Set all generators back to the saved state."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._devices is not None:
            torch.cuda.set_rng_state_all(self._devices)


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` runs eagerly; afterwards its modes, its buffers and the random states are restored."""
    with ExitStack() as stack:
        stack.callback(RngState().restore)
        stack.enter_context(force_eager())
        stack.enter_context(preserve_modes(model))
        stack.enter_context(preserve_buffers(model.modules()))
        # The fast path of attention bypasses the linear layers in it.
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        yield


@contextmanager
def preserve_attribute(modules: Iterable[nn.Module], name: str) -> Iterator[None]:
    """Afterwards the attribute ``name`` of those ``modules`` that have it is restored."""
    before = [(module, getattr(module, name)) for module in modules if hasattr(module, name)]
    try:
        yield
    finally:
        for module, value in before:
            setattr(module, name, value)


def preserve_modes(model: nn.Module) -> AbstractContextManager[None]:
    """Afterwards each module of ``model`` has its previous mode; frozen TorchScript modules have none."""
    return preserve_attribute(model.modules(), "training")


@contextmanager
def preserve_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards the buffers of ``modules`` (not of their children) are the same tensors with the same content."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        for module, name, buffer, content in before:
            # A forward pass may replace or resize the tensor, except in TorchScript.
            if not is_script(module) and module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
            if not is_script(module) and buffer.shape != content.shape:
                buffer.data = content
            else:
                copy_values(buffer, content)


@contextmanager
def temporary_buffers(model: nn.Module, layers: Mapping[str, _BatchNorm]) -> Iterator[None]:
    """Afterwards the modes of all modules of ``model``, and the momentum and buffers of ``layers``, are restored."""
    norms = layers.values()
    with preserve_modes(model), preserve_attribute(norms, "momentum"), preserve_buffers(norms):
        yield


@contextmanager
def temporary_hooks(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove ``hooks`` at the end."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@contextmanager
def force_eager() -> Iterator[None]:
    """Inside, a compiled model runs eagerly: compiled code would bypass hooks.

    Raises:
        ModelError: Inside a function that ``torch.compile`` compiles.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            try:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                raise ModelError(
                    "bnkit was called inside a function that torch.compile compiles; call it before, outside of the function"
                ) from error
        yield


class Snapshot:
    """The current state of a model and of the random generators, to be restored bit by bit.

    It covers each module's class and attributes (the mode, hooks, counters in plain Python), including the entries of
    lists and dictionaries; the content, gradient and ``requires_grad`` of each parameter, buffer and tensor attribute;
    and the state of torch's, NumPy's and Python's generators, and of ``generators``.

    Args:
        model: The model.
        generators: Further generators that may be used, such as that of a ``DataLoader``.
    """

    def __init__(self, model: nn.Module, generators: tuple[torch.Generator, ...] = ()) -> None:
        self._random = RngState()
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._modules = [(module, type(module), dict(vars(module))) for module in model.modules()]
        self._containers: list[tuple[Any, Any]] = []
        tensors: dict[int, Tensor] = {}
        for _, _, attributes in self._modules:
            for value in attributes.values():
                self._keep(value, tensors)
        self._tensors = [_TensorState(tensor) for tensor in tensors.values()]

    def _keep(self, value: Any, tensors: dict[int, Tensor]) -> None:
        if isinstance(value, Tensor):
            if not is_lazy(value):
                tensors.setdefault(id(value), value)
        elif isinstance(value, _CONTAINERS):
            content = dict(value) if isinstance(value, dict) else list(value)
            self._containers.append((value, content))
            for entry in content.values() if isinstance(content, dict) else content:
                if isinstance(entry, Tensor):
                    self._keep(entry, tensors)

    def restore_random_state(self) -> None:
        """Restore only the states of the generators."""
        self._random.restore()
        for generator, state in self._generators:
            generator.set_state(state)

    @torch.no_grad()
    def restore(self) -> None:
        """Restore everything. Tensors with unchanged content are not written to."""
        self.restore_random_state()
        for module, kind, attributes in self._modules:
            if type(module) is not kind:
                module.__class__ = kind
            now = vars(module)
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update(attributes)
        for container, content in self._containers:
            _refill(container, content)
        for kept in self._tensors:
            kept.restore()


class _TensorState:
    """A tensor and its saved state."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._content = tensor, tensor.detach().clone()
        self._gradient = tensor.grad if tensor.is_leaf else None
        self._content_of_gradient = None if self._gradient is None else self._gradient.detach().clone()
        self._requires_grad = tensor.requires_grad

    def restore(self) -> None:
        _rewrite(self._tensor, self._content)
        if self._gradient is not None and self._content_of_gradient is not None:
            _rewrite(self._gradient, self._content_of_gradient)
        if self._tensor.is_leaf:
            if self._tensor.grad is not self._gradient:
                self._tensor.grad = self._gradient
            if self._tensor.requires_grad != self._requires_grad:
                self._tensor.requires_grad_(self._requires_grad)


def _rewrite(tensor: Tensor, content: Tensor) -> None:
    if not tensor.is_meta and not _holds(tensor, content):
        if tensor.shape == content.shape:
            copy_values(tensor, content)
        else:  # it was resized
            tensor.data = content


def _holds(tensor: Tensor, content: Tensor) -> bool:
    """Whether ``tensor`` equals ``content`` bit by bit: -0 differs from 0, and a NaN equals the same NaN."""
    if tensor.shape != content.shape or tensor.dtype != content.dtype:
        return False
    one, kind = tensor.detach(), _INTEGERS.get(tensor.element_size())
    is_plain = type(one) is Tensor and one.layout == torch.strided and not (one.is_quantized or one.is_complex())
    if kind is None or not is_plain:
        return torch.equal(one, content)
    one, content = one.view(kind), content.view(kind)
    if one.device.type != "cpu" or one.numel() < _LITTLE:  # a NumPy view would block resizing
        return torch.equal(one, content)
    return np.array_equal(one.numpy(), content.numpy())  # takes two thirds of the time of torch.equal


def _refill(container: Any, content: Any) -> None:
    if not container and not content:
        return
    is_mapping = isinstance(container, dict)
    now = dict(container) if is_mapping else list(container)
    if len(now) == len(content) and (
        all(key in now and now[key] is value for key, value in content.items())
        if is_mapping
        else all(one is other for one, other in zip(now, content, strict=True))
    ):
        return
    container.clear()
    if isinstance(container, (dict, set)):
        container.update(content)
    else:
        container.extend(content)


@contextmanager
def preserve_everything(model: nn.Module, generators: tuple[torch.Generator, ...] = ()) -> Iterator[Snapshot]:
    """Afterwards ``model`` and the random state are restored bit by bit, even after an error."""
    snapshot = Snapshot(model, generators)
    try:
        yield snapshot
    finally:
        snapshot.restore()


def isolate_from_ambient_modes(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make ``verb`` return the same inside ``torch.inference_mode`` and ``torch.autocast`` as outside.

    In inference mode, the copy would consist of tensors that can never be trained. Autocast caches the weights that it
    has cast, and would use them after the weights changed; inside ``verb`` it still casts, but its cache is off. So is
    the cache of parametrizations, which is keyed by the address of a module.
    """

    @wraps(verb)
    def isolated(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.callback(torch.clear_autocast_cache)
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            torch.clear_autocast_cache()
            stack.callback(setattr, parametrize, "_cache_enabled", parametrize._cache_enabled)
            parametrize._cache_enabled = 0
            return verb(*args, **kwargs)

    return isolated


def copy_values(tensor: torch.Tensor, content: torch.Tensor) -> None:
    """Copy the values of ``content`` into ``tensor``; either of them may be an inference tensor."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        tensor.copy_(content)
