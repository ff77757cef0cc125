"""What a rule of the checker needs besides the model."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """What a rule has to be given, beyond the model."""

    STRUCTURE = "an example input"
    DATA = "batches of data"
    OPTIMIZER = "the optimizer"
    LOADER = "the loader of the training data"
    EMA = "the averaged model"
