"""A model that runs, and is afterwards what it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bnkit.errors import ModelError
from bnkit.model.inspect.supported import is_script
from bnkit.model.surroundings import copy_values


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` runs eagerly; afterwards its modes and buffers and the random states are as before."""
    # A TorchScript module that was frozen has no mode.
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device.index for device in devices]), force_eager():
        try:
            # The fast path of attention hides the linear layers in it.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)
            for module, mode in modes.items():
                module.training = mode
            for module, name, buffer, content in buffers:
                if is_script(module):
                    copy_values(buffer, content)
                    continue
                if module._buffers.get(name) is not buffer:  # a forward pass may put another tensor there
                    module._buffers[name] = buffer
                if buffer.shape != content.shape:  # or give it another size
                    buffer.data = content
                else:
                    copy_values(buffer, content)


@contextmanager
def force_eager() -> Iterator[None]:
    """Inside, a model that was compiled runs eagerly: compiled already, it would run past hooks.

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
