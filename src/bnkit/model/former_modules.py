"""Aliases for renamed modules, so that models pickled as a whole under the old names still load."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_TODAY = {
    "bnkit.experiments.networks.layers": "bnkit.experiments.networks.blocks",
    "bnkit.model.counterparts": "bnkit.model.layers.activated",
    "bnkit.model.fold": "bnkit.model.layers.folded",
    "bnkit.model.frozen": "bnkit.model.layers.frozen_mixin",
    "bnkit.experiments.networks.arms": "bnkit.experiments.networks.normalization_kinds",
    "bnkit.model.layers.attached": "bnkit.model.layers.attached_batch_norm",
    "bnkit.model.layers.deferred": "bnkit.model.layers.deferred_fusion",
    "bnkit.model.layers.mixin": "bnkit.model.layers.put_mixin_before_class",
    "bnkit.model.layers.frozen": "bnkit.model.layers.frozen_mixin",
    "bnkit.model.layers.done_before": "bnkit.model.layers.activation_placeholder",
    "bnkit.model.hosting": "bnkit.model.layers.attached_batch_norm",
    "bnkit.model.saving": "bnkit.model.save",
    "bnkit.model.subclassing": "bnkit.model.layers.put_mixin_before_class",
}


class _Former(ModuleType):
    """A module that forwards attribute access to the module that replaces it today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python looks these up on every module; they must not trigger the import
            raise AttributeError(name)
        return getattr(importlib.import_module(_TODAY[self.__name__]), name)


def register() -> None:
    """Make ``import`` and ``pickle`` find the former modules."""
    for name in _TODAY:
        sys.modules.setdefault(name, _Former(name))
