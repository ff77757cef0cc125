"""The files that the compiled loops are made from."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_KERNELS = Path(__file__).parent.parent
# The other modules of ``kernels.cpu`` only call the loops.
SOURCES = (
    "activation", "cpu/aten_affine_loops", "cpu/channels_last_loops", "cpu/channels_last_row_steps",
    "cpu/contiguous_loops", "cpu/element_access", "cpu/intrinsics", "cpu/layout",
    "cpu/loop_call", "cpu/numba_compile", "cpu/smooth_activations",
)  # fmt: skip


def source_files() -> list[Path]:
    """The files, in a fixed order."""
    return [_KERNELS / f"{name}.py" for name in SOURCES]


@cache
def digest_of_sources(file: str) -> str:
    """Eight digits that change with any of the sources, and with the file of the loop."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (Path(file), *source_files()))).hexdigest()[:8]
