"""Convert lazy batch norms, which know their channels only after their first input."""

from __future__ import annotations

from torch import nn

from bnkit.model.change_list import UNCHANGED
from bnkit.model.edit.replace import Replacement
from bnkit.model.inspect.recognise_batch_norm import KNOWN
from bnkit.model.layers.activated import OURS
from bnkit.model.layers.frozen_mixin import bare_class
from bnkit.nn import batch_norm as ours


def is_known(module: nn.Module) -> bool:
    """Whether ``module`` is one of PyTorch's lazy batch norms."""
    return bare_class(module) in KNOWN


def replace_with(module: nn.Module, replacement: Replacement) -> tuple[str, str]:
    """Make the lazy ``module`` turn into a layer of the ``replacement`` kind; returns the action and the detail.

    PyTorch turns it into ``cls_to_become`` on its first input. The additional attributes of bnkit's class are set now.
    """
    dimensions = KNOWN[bare_class(module)]
    kind, name = OURS[dimensions], type(module).__name__
    becomes_ours = issubclass(vars(module).get("cls_to_become", object), ours._BatchNorm)
    if replacement.kind == "torch":
        if not becomes_ours:
            return UNCHANGED, f"is torch.nn.{name} already"
        template = kind(1)
        for key in set(vars(template)) - set(vars(nn.BatchNorm2d(1))):
            vars(module).pop(key, None)
        module._buffers.pop("num_batches_skipped", None)
        module._non_persistent_buffers_set.discard("num_batches_skipped")
        del vars(module)["cls_to_become"]
        return "converted", f"{name} becomes torch.nn.{kind.__name__} when it sees an input"
    extras = replacement.extras(module)
    if becomes_ours and all(vars(module)[key] == value for key, value in extras.items()):
        return UNCHANGED, f"becomes bnkit.nn.{kind.__name__} already when it sees an input"
    template = kind(1, affine=False, track_running_stats=False, **extras)
    for key in set(vars(template)) - set(vars(nn.BatchNorm2d(1))):
        vars(module)[key] = vars(template)[key]
    module.register_buffer("num_batches_skipped", template.num_batches_skipped, persistent=False)
    vars(module)["cls_to_become"] = kind
    manner = ", synchronised," if extras["sync"] else ""
    return "converted", f"{name} becomes bnkit.nn.{kind.__name__}{manner} when it sees an input"
