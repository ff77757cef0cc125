"""Worked examples of a single layer, as tables; they train no comparison."""

from collections.abc import Callable

from bnkit.demonstrations.scratch_and_concise import scratch_and_concise
from bnkit.demonstrations.train_and_predict import train_and_predict
from bnkit.text_table import Table

DEMONSTRATIONS: dict[str, Callable[[], list[Table]]] = {
    "scratch-and-concise": scratch_and_concise,
    "train-and-predict": train_and_predict,
}

__all__ = ["DEMONSTRATIONS"]
