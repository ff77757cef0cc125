"""Data sets: downloaded once and verified, split, normalised and batched."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnkit.data.catalog import DATA_SETS as DATA_SETS
    from bnkit.data.catalog import load as load
    from bnkit.data.catalog import names as names
    from bnkit.data.downloads import FileState as FileState
    from bnkit.data.downloads import PublishedFile as PublishedFile
    from bnkit.data.downloads import cache_directory as cache_directory
    from bnkit.data.examples import DataSet as DataSet
    from bnkit.data.examples import Examples as Examples
    from bnkit.data.examples import Split as Split
    from bnkit.data.splits import Splits as Splits
    from bnkit.data.splits import TrainSet as TrainSet
    from bnkit.data.splits import batches as batches
    from bnkit.data.splits import prepare as prepare
    from bnkit.data.streamed_examples import Streamed as Streamed

# Where each name lives. Loaded on first use (PEP 562): which data sets there are is known without torch.
_HOMES = {
    "DATA_SETS": "catalog",
    "DataSet": "examples",
    "Examples": "examples",
    "FileState": "downloads",
    "PublishedFile": "downloads",
    "Split": "examples",
    "Splits": "splits",
    "Streamed": "streamed_examples",
    "TrainSet": "splits",
    "batches": "splits",
    "cache_directory": "downloads",
    "load": "catalog",
    "names": "catalog",
    "prepare": "splits",
}

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Examples",
    "FileState",
    "PublishedFile",
    "Split",
    "Splits",
    "Streamed",
    "TrainSet",
    "batches",
    "cache_directory",
    "load",
    "names",
    "prepare",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
