"""Data sets: downloaded once and verified, split, normalised and batched."""

from bnkit.data.catalog import DATA_SETS, load, names
from bnkit.data.downloads import FileState, PublishedFile, cache_directory
from bnkit.data.examples import DataSet, Examples, Split
from bnkit.data.loaded import Streamed
from bnkit.data.splits import Splits, TrainSet, batches, prepare

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
