"""Inputs that a rule of the checker may require besides the model."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """An input that a rule requires, besides the model."""

    STRUCTURE = "an example input"
    DATA = "batches of data"
    OPTIMIZER = "the optimizer"
    LOADER = "the loader of the training data"
    EMA = "the averaged model"
