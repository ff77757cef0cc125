"""Check that a model is supported, before a function reads or changes it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from bnkit.errors import ModelError, SettingsError
from bnkit.model.inspect.operation_types import OpType, type_of_operation

_QUANTIZED = ("torch.ao.nn.quantized.modules", "torch.ao.nn.intrinsic.quantized.modules")
# Float modules of torch.ao.nn.quantized: left by dynamic quantization, or part of models to be quantized later.
_STILL_FLOAT = ("LinearPackedParams", "FloatFunctional", "FXFloatFunctional")
_OBSERVED = (
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
    "torch.ao.nn.qat",
    "torch.ao.nn.intrinsic.qat",
)


def check_supported(model: Any, *, runs: bool = False, changes: bool = False) -> None:
    """Refuse objects that are not an ``nn.Module``, and models whose layers cannot be seen, replaced or hooked.

    Args:
        model: The object that the user passed.
        runs: Whether it will run, so that it needs real tensors.
        changes: Whether it will be copied and layers of the copy changed, which fewer models support.

    Raises:
        SettingsError: It is not an ``nn.Module``.
        ModelError: The model is not supported. The message says why, and what to pass instead.
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(f"model is {_type_name(model)}; expected an nn.Module{_instead(model)}")
    if torch._C._are_functorch_transforms_active():
        raise ModelError(
            f"{type(model).__name__} was given under a transform of torch.func (grad, vmap, ...), where tensors stand for "
            "others; call bnkit outside of it"
        )
    reason = _why_not(_unwrapped(model))
    if not reason and (runs or changes):
        reason = _why_no_run(model)
    if not reason and changes:
        reason = _why_no_change(model)
    if reason:
        raise ModelError(f"{type(model).__name__} {reason}")


def is_script(module: nn.Module) -> bool:
    """Whether ``module`` is TorchScript, which does not support hooks or replacing layers."""
    return isinstance(module, torch.jit.ScriptModule)


def _type_name(model: Any) -> str:
    return f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"


def _instead(model: Any) -> str:
    """Advice for an object that is not a module; may be empty."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f": build it, {model.__name__}(...)"
    if type(model).__module__.startswith("torch.export"):
        return ": give the one that was exported, and export the result"
    if isinstance(model, Mapping) and model and all(isinstance(value, torch.Tensor) for value in model.values()):
        return ": build the network, and give it these tensors by load_state_dict"
    if isinstance(model, torch.jit.ScriptFunction):
        return ": TorchScript cannot be changed"
    return ""


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module inside simple wrappers: DataParallel, torch.compile, an average of weights."""
    inside = next((model._modules[name] for name in ("module", "_orig_mod") if name in model._modules), None)
    return model if inside is None or len(model._modules) > 1 else _unwrapped(inside)


def _why_not(model: nn.Module) -> str:
    if is_script(model):
        return (
            "is TorchScript, whose layers can be neither watched nor replaced; give the nn.Module that it was made from, and "
            "use torch.jit.script or torch.jit.trace on the result"
        )
    if _is_of_single_operations(model) or any(_is_of(module, ("torch.export",)) for module in model.modules()):
        return (
            f"{'is' if _is_of_single_operations(model) else 'holds'} a graph of single operations, as torch.export and make_fx "
            "write, which has no layers; give the nn.Module that it was made from, and export the result"
        )
    if any(_is_of(module, _QUANTIZED) for module in model.modules()):
        return (
            "is quantized, so that its weights are packed integers; give the model from before torch.ao.quantization.convert, "
            "and quantize the result"
        )
    return ""


def _why_no_run(model: nn.Module) -> str:
    if _is_fake(model):
        return "has tensors without values (FakeTensorMode); expected real ones: call bnkit outside of the mode"
    if any(isinstance(module, nn.DataParallel) and len(module.device_ids) > 1 for module in model.modules()):
        return (
            "has a replica on each of several devices (DataParallel), which cannot be watched; give the module in it, "
            "model.module, and wrap the result"
        )
    return ""


def _why_no_change(model: nn.Module) -> str:
    if any(_is_of(module, _OBSERVED) for module in model.modules()):
        return (
            "is prepared for quantization, and has observers that belong to its layers; give the model from before "
            "torch.ao.quantization.prepare, and prepare the result"
        )
    if any(_is_of(module, ("torch.nn.parallel.distributed",)) for module in model.modules()):
        return (
            "synchronises the parameters that it was made with over processes (DistributedDataParallel); give the module in it, "
            "model.module, and wrap the result"
        )
    if any(_is_sharded(module) for module in model.modules()):
        return (
            "is sharded over processes (FSDP, DTensor), so that none has whole weights; give the model from before, and shard "
            "the result"
        )
    return ""


def _is_of_single_operations(model: nn.Module) -> bool:
    if _is_of(model, ("torch.export",)):
        return True
    if not isinstance(model, GraphModule):
        return False
    targets = [node.target for node in model.graph.nodes if node.op == "call_function"]
    names = [target._schema.name.partition("::")[2] for target in targets if isinstance(target, torch._ops.OpOverload)]
    kinds = [type_of_operation(name, ()) for name in names]
    return any(kind.has_weights or kind is OpType.NORM for kind in kinds)


def _is_of(module: nn.Module, homes: tuple[str, ...]) -> bool:
    """Whether a class of ``module`` is defined in one of ``homes``, modules of PyTorch."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.")]
    # Dynamic quantization packs only the weights of single layers; the rest of the model is unchanged.
    if any(".dynamic" in kind.__module__ or kind.__name__ in _STILL_FLOAT for kind in kinds):
        return False
    return any(kind.__module__.startswith(homes) for kind in kinds)


def _is_sharded(module: nn.Module) -> bool:
    if _is_of(module, ("torch.distributed.fsdp",)):
        return True
    return any(type(parameter).__module__.startswith("torch.distributed.") for parameter in module.parameters(False))


def _is_fake(model: nn.Module) -> bool:
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        return True
    tensors = chain(model.parameters(), model.buffers())
    return any(type(tensor).__module__.startswith("torch._subclasses.") for tensor in tensors)
