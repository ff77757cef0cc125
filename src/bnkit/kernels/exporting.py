"""Whether ``torch.export`` is tracing."""

from __future__ import annotations

import torch

__all__ = ["is_exporting"]

if hasattr(torch.compiler, "is_exporting"):
    is_exporting = torch.compiler.is_exporting
else:  # PyTorch 2.6, whose strict export cannot be distinguished from torch.compile

    def is_exporting() -> bool:
        """Whether ``torch.export`` is tracing without Dynamo."""
        return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
