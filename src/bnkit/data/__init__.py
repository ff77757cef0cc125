"""Data sets: fetched once, verified, held in memory, batched by index."""

from bnkit.data.catalog import SOURCES, load, names
from bnkit.data.downloads import PublishedFile, State, cache_directory
from bnkit.data.examples import DataSet, Examples, Part
from bnkit.data.loaded import Streamed
from bnkit.data.splits import Parts, TrainSet, batches, prepare

__all__ = [
    "SOURCES",
    "DataSet",
    "Examples",
    "Part",
    "Parts",
    "PublishedFile",
    "State",
    "Streamed",
    "TrainSet",
    "batches",
    "cache_directory",
    "load",
    "names",
    "prepare",
]
