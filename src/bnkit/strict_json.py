"""JSON without NaN and infinity, which the standard does not allow: they become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def strict(value: Any) -> Any:
    """``value`` with every non-finite float replaced by None, at any depth.

    Examples:
        >>> strict({"loss": float("nan"), "accuracy": [0.5, float("inf")]})
        {'loss': None, 'accuracy': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    return value


def dumps(value: Any, indent: int | None = None) -> str:
    """``value`` as strict JSON."""
    return json.dumps(strict(value), indent=indent, allow_nan=False)
