"""Which of the compiled loops: what is known when it is compiled."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """What a loop is compiled for.

    Attributes:
        kind: Of the elements: "float32", "float64", "float16", "bfloat16".
        activation: None, or one that ``elements`` knows.
        has_residual: Whether a residual is added before the activation; backward, whether the gradient of the residual is written.
        needs_output: Whether, backward, the output is given to tell the slope of the activation.
        given_terms: Whether, backward, it is given what to take away for the statistics. Otherwise that is taken away before
            anything is multiplied: where all gradients are the same, nothing is left, and no factor is too small for float32.
        nontemporal: Whether results go past the caches; their rows or planes then begin at multiples of 64 bytes.
        float64_compute: Whether it computes in float64, whatever the elements are.
        masked: Whether a mask says which positions count, (N, P) bytes; over planes only.
    """

    kind: str
    activation: str | None = None
    has_residual: bool = False
    needs_output: bool = False
    given_terms: bool = False
    nontemporal: bool = False
    float64_compute: bool = False
    masked: bool = False

    def __str__(self) -> str:
        """A name that no other one has."""
        return f"{self.kind}_{self.activation}_" + "".join(f"{flag:d}" for flag in self[2:])
