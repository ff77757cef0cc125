"""A description of a call of the compiled loops, from which another process can compile them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch

from bnkit.errors import SettingsError
from bnkit.kernels.activation import FUNCTIONS
from bnkit.kernels.cpu.layout import KINDS, layout_of

Purpose = Literal["layer", "sync", "moments", "recompute"]
_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}
_LEAST_FOR_ALL = 1 << 14  # with fewer elements, PyTorch computes activations that the loops do not support


class CompileRequest(NamedTuple):
    """The properties of a call that select its loops.

    Attributes:
        purpose: "layer": both passes of batch normalization; "sync": their halves; "moments": those of each channel of each
            example; "recompute": PyTorch's output recomputed from its statistics.
        shape: The shape of the input, (N, C, *).
        kind: The kind of its elements, a value of ``layout.KINDS``.
        is_contiguous: Whether the input is contiguous; otherwise it is channels last.
        activation, has_residual, has_mask: Further operations of the layer.
    """

    purpose: Purpose
    shape: tuple[int, ...]
    kind: str
    is_contiguous: bool = True
    activation: str | None = None
    has_residual: bool = False
    has_mask: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the input."""
        return _DTYPES[self.kind]

    @property
    def name(self) -> str:
        """A file name. Calls with the same name use the same loops, regardless of their shapes."""
        return _name(self)

    @property
    def smallest(self) -> CompileRequest:
        """A call with the same name and as few examples as possible."""
        examples = 1
        while examples < self.shape[0]:
            candidate = self._replace(shape=(examples, *self.shape[1:]))
            values, size = math.prod(candidate.shape) // self.shape[1], math.prod(candidate.shape)
            if values > 1 and (size >= _LEAST_FOR_ALL or size == math.prod(self.shape)) and candidate.name == self.name:
                return candidate
            examples *= 2
        return self

    def __str__(self) -> str:
        """A readable description: ``float32, channels last, relu``."""
        words = [self.kind, "contiguous" if self.is_contiguous else "channels last"]
        words += [] if self.activation is None else [self.activation]
        words += ["+ residual"] if self.has_residual else []
        words += ["masked"] if self.has_mask else []
        return ", ".join(words if self.purpose == "layer" else [self.purpose, *words])


def request_from(values: dict[str, Any]) -> CompileRequest:
    """Read the output of ``CompileRequest._asdict``.

    Raises:
        SettingsError: If the fields are invalid.
    """
    try:
        request = CompileRequest(**{**values, "shape": tuple(map(int, values["shape"]))})
        is_right = request.kind in _DTYPES and request.purpose in get_args(Purpose) and min(request.shape) > 0
        if is_right and len(request.shape) > 1 and request.activation in (None, *FUNCTIONS):
            return request
    except (KeyError, TypeError, ValueError):
        pass
    raise SettingsError(f"a file of what is to be compiled says {values!r}; expected the fields of a CompileRequest")


@cache
def _name(request: CompileRequest) -> str:
    if request.purpose == "recompute":  # these loops are few and compile quickly: compile all of them
        return request.purpose
    as_planes = request.has_mask or request.purpose == "moments"
    in_planes = request.is_contiguous and (len(request.shape) > 2 or as_planes)
    layout = layout_of(request.shape, request.dtype, in_planes, 1, as_planes=as_planes)
    flags = {
        "residual": request.has_residual,
        "mask": request.has_mask,
        "large": layout.can_stream,
        "small": layout.is_small,
    }
    activation = request.activation or "none"
    return "-".join(
        [request.purpose, request.kind, layout.strategy, activation, *(word for word, on in flags.items() if on)]
    )
