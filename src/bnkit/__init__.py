"""Batch normalization in PyTorch: layers, and the honest comparison of networks with and without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnkit import nn as nn
    from bnkit.checks.check import assert_healthy as assert_healthy
    from bnkit.checks.check import check as check
    from bnkit.checks.monitor import Monitor as Monitor
    from bnkit.memory.freed import keep_freed_memory as keep_freed_memory
    from bnkit.memory.recompute import recompute as recompute
    from bnkit.model.add import add as add
    from bnkit.model.convert import convert as convert
    from bnkit.model.fold import fold as fold
    from bnkit.model.freeze import freeze as freeze
    from bnkit.model.freeze import unfreeze as unfreeze
    from bnkit.model.recalibrate import recalibrate as recalibrate
    from bnkit.model.remove import remove as remove
    from bnkit.report.compare import compare as compare
    from bnkit.report.comparison import Comparison as Comparison

__version__ = "0.1.0"

# Where each public name lives. They are loaded on first use (PEP 562), so that `import bnkit` alone loads no torch.
_HOMES = {
    "Comparison": "bnkit.report.comparison",
    "Monitor": "bnkit.checks.monitor",
    "add": "bnkit.model.add",
    "assert_healthy": "bnkit.checks.check",
    "check": "bnkit.checks.check",
    "compare": "bnkit.report.compare",
    "convert": "bnkit.model.convert",
    "fold": "bnkit.model.fold",
    "freeze": "bnkit.model.freeze",
    "keep_freed_memory": "bnkit.memory.freed",
    "nn": "bnkit.nn",
    "recalibrate": "bnkit.model.recalibrate",
    "recompute": "bnkit.memory.recompute",
    "remove": "bnkit.model.remove",
    "unfreeze": "bnkit.model.freeze",
}

__all__ = [
    "Comparison",
    "Monitor",
    "add",
    "assert_healthy",
    "check",
    "compare",
    "convert",
    "fold",
    "freeze",
    "keep_freed_memory",
    "nn",
    "recalibrate",
    "recompute",
    "remove",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bnkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = importlib.import_module(_HOMES[name])
    return home if name == "nn" else getattr(home, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
