"""Modules under the names that they had before: models that were pickled whole name their classes by these."""

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
    "bnkit.model.layers.frozen": "bnkit.model.layers.frozen_mixin",
    "bnkit.model.layers.done_before": "bnkit.model.layers.activation_placeholder",
    "bnkit.model.hosting": "bnkit.model.layers.attached",
    "bnkit.model.saving": "bnkit.model.save",
    "bnkit.model.subclassing": "bnkit.model.layers.mixin",
}


class _Former(ModuleType):
    """A module that takes what is asked of it from the module that stands in its place today."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of every module, and must not load this one for
            raise AttributeError(name)
        return getattr(importlib.import_module(_TODAY[self.__name__]), name)


def register() -> None:
    """Let ``import`` and ``pickle`` find the former modules."""
    for name in _TODAY:
        sys.modules.setdefault(name, _Former(name))
