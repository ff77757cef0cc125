"""The scores of a run on each test example at its end: a file next to its record. Needs no torch."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.experiments.records import atomic_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "test-scores.npz"
_NAMES = ("moving_average", "population")


@dataclass(frozen=True)
class ExampleScores:
    """The score of every test example, in the order of the test set; their mean is the score of the run.

    Attributes:
        moving_average: (m,), with running statistics. Bool if an example has one answer: whether it is right. Otherwise float64,
            to three digits: the share of its answers that are right, or its part of a metric.
        population: (m,), the same with population statistics; None without batch norm.
    """

    moving_average: NDArray[Any]
    population: NDArray[Any] | None = None


def save_example_scores(folder: Path, scores: ExampleScores) -> str:
    """Write the file into the folder of a run, atomically, and return its SHA-256.

    Raises:
        UnwritableError: If the system refuses.
    """
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {"examples": np.array(len(scores.moving_average))}
    for name in _NAMES:
        values = getattr(scores, name)
        if values is None:
            continue
        if values.dtype == bool:
            arrays[name] = np.packbits(values)
        else:
            # Errors of large targets overflow float16, and those of small ones underflow.
            scale = float(np.abs(values).max(initial=0.0)) or 1.0
            arrays[name], arrays[f"{name}_scale"] = (values / scale).astype(np.float16), np.array(scale)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    atomic_files.replace(folder / FILE, buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def load_example_scores(folder: Path, digest: str) -> ExampleScores | None:
    """Read the output of ``save_example_scores``; None if the file is missing, or its SHA-256 differs."""
    import numpy as np

    try:
        content = (folder / FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            examples = int(arrays["examples"])
            moving_average, population = (_read(arrays, name, examples) for name in _NAMES)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return None if moving_average is None else ExampleScores(moving_average, population)


def _read(arrays: Any, name: str, examples: int) -> np.ndarray[Any, Any] | None:
    import numpy as np

    if name not in arrays:
        return None
    values = arrays[name]
    if values.dtype == np.uint8:
        return np.unpackbits(values, count=examples).astype(bool)
    scores: np.ndarray[Any, Any] = values.astype(np.float64) * float(arrays[f"{name}_scale"])
    return scores
