"""Batch normalization in PyTorch: layers, and the honest comparison of networks with and without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnkit import nn as nn
    from bnkit.checks.check import assert_healthy as assert_healthy
    from bnkit.checks.check import check as check
    from bnkit.checks.training_monitor import Monitor as Monitor
    from bnkit.comparison.compare import compare as compare
    from bnkit.comparison.comparison_result import Comparison as Comparison
    from bnkit.experiments.callbacks import Callback as Callback
    from bnkit.memory.freed_memory import keep_freed_memory as keep_freed_memory
    from bnkit.memory.recompute import recompute as recompute
    from bnkit.model.edit.add import add as add
    from bnkit.model.edit.convert import convert as convert
    from bnkit.model.edit.fold import fold as fold
    from bnkit.model.edit.freeze import freeze as freeze
    from bnkit.model.edit.freeze import unfreeze as unfreeze
    from bnkit.model.edit.remove import remove as remove
    from bnkit.model.instrument.summary import summary as summary
    from bnkit.model.statistics.recalibrate import recalibrate as recalibrate
    from bnkit.model.statistics.temporary_recalibration import recalibrated as recalibrated

__version__ = "0.1.0"

# Where each public name lives. They are loaded on first use (PEP 562), so that `import bnkit` alone loads no torch.
_HOMES = {
    "Callback": "bnkit.experiments.callbacks",
    "Comparison": "bnkit.comparison.comparison_result",
    "Monitor": "bnkit.checks.training_monitor",
    "add": "bnkit.model.edit.add",
    "assert_healthy": "bnkit.checks.check",
    "check": "bnkit.checks.check",
    "compare": "bnkit.comparison.compare",
    "convert": "bnkit.model.edit.convert",
    "fold": "bnkit.model.edit.fold",
    "freeze": "bnkit.model.edit.freeze",
    "keep_freed_memory": "bnkit.memory.freed_memory",
    "nn": "bnkit.nn",
    "recalibrate": "bnkit.model.statistics.recalibrate",
    "recalibrated": "bnkit.model.statistics.temporary_recalibration",
    "recompute": "bnkit.memory.recompute",
    "remove": "bnkit.model.edit.remove",
    "summary": "bnkit.model.instrument.summary",
    "unfreeze": "bnkit.model.edit.freeze",
}

__all__ = [
    "Callback",
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
    "recalibrated",
    "recompute",
    "remove",
    "summary",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        from bnkit.message_parts import did_you_mean

        close = did_you_mean(name, __all__)
        raise AttributeError(f"module 'bnkit' has no attribute {name!r}; it has {', '.join(__all__)}{close}")
    home = importlib.import_module(_HOMES[name])
    return home if name == "nn" else getattr(home, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
