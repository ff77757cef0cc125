"""Which of the compiled loops: what is known when it is compiled."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """What a loop is compiled for.

    Attributes:
        kind: Of the elements: "float32", "float64", "float16", "bfloat16".
        activation: None, or one that ``elements`` knows.
        adds: Whether a residual is added before the activation; backward, whether the gradient of the residual is written.
        sees: Whether, backward, the output is given to tell the slope of the activation.
        apart: Whether, backward, it is given what to take away for the statistics. Otherwise that is taken away before anything is
            multiplied: where all gradients are the same, nothing is left, and no factor is too small for float32.
        streams: Whether results go past the caches; their rows or planes then begin at multiples of 64 bytes.
        wide: Whether it computes in float64, whatever the elements are.
        masked: Whether a mask says which positions count, (N, P) bytes; over planes only.
    """

    kind: str
    activation: str | None = None
    adds: bool = False
    sees: bool = False
    apart: bool = False
    streams: bool = False
    wide: bool = False
    masked: bool = False

    def __str__(self) -> str:
        """A name that no other one has."""
        return f"{self.kind}_{self.activation}_" + "".join(f"{flag:d}" for flag in self[2:])
