"""Batch normalization in PyTorch: layers, and the honest comparison of networks with and without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnkit import nn as nn
    from bnkit.memory import keep_freed_memory as keep_freed_memory
    from bnkit.report.compare import compare as compare
    from bnkit.report.comparison import Comparison as Comparison

__version__ = "0.1.0"

# Where each public name lives. They are loaded on first use (PEP 562), so that `import bnkit` alone loads no torch.
_HOMES = {
    "Comparison": "bnkit.report.comparison",
    "compare": "bnkit.report.compare",
    "keep_freed_memory": "bnkit.memory",
    "nn": "bnkit.nn",
}

__all__ = ["Comparison", "compare", "keep_freed_memory", "nn"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bnkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = importlib.import_module(_HOMES[name])
    return home if name == "nn" else getattr(home, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
