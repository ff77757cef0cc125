"""Data sets: fetched once, verified, held in memory, batched by index."""

from bnkit.data.catalog import SOURCES, load, names
from bnkit.data.examples import DataSet, Examples, Part
from bnkit.data.files import PublishedFile, State, cache_directory
from bnkit.data.parts import Parts, TrainSet, batches, prepare
from bnkit.data.streamed import Streamed

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
