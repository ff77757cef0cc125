"""The threads of a compiled loop: PyTorch's own, as many as ``torch.set_num_threads`` says.

PyTorch's operations on the CPU share a team of OpenMP threads; a loop of ours that runs on the same team takes two
microseconds to start, adds no threads, and finds the data in the caches of the cores that wrote it. Numba's own threading
layers end the process in a forked worker, or where two Python threads compute at once; OpenMP gives each Python thread a
team of its own.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

# So many elements are worth another thread: about the time that it takes to wake one.
_LEAST = 1 << 14
_in_a_fork = False


def _alone_from_now_on() -> None:
    global _in_a_fork  # noqa: PLW0603 - one for the process
    _in_a_fork = True


if hasattr(os, "register_at_fork"):
    # The team is not there in a fork, and OpenMP would wait for it for ever.
    os.register_at_fork(after_in_child=_alone_from_now_on)


class Team(NamedTuple):
    """The addresses of the functions that run a loop on PyTorch's threads; zeros where there are none.

    Attributes:
        start: ``GOMP_parallel(function, argument, threads, flags)`` calls a function on each of so many threads.
        thread: ``omp_get_thread_num()``.
        threads: ``omp_get_num_threads()``: how many there are in fact.
    """

    start: int
    thread: int
    threads: int


@cache
def team() -> Team:
    """PyTorch's OpenMP library, which is loaded; without one that can be called, loops run on one thread.

    GNU's library has these functions, and LLVM's has them for code that GNU's compiler made.
    """
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    for library in [*map(str, libraries), None]:
        try:
            loaded = ctypes.CDLL(library)
            functions = (loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads)
        except (OSError, AttributeError, TypeError):  # not a library, without these functions, or on Windows
            continue
        return Team(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
    return Team(0, 0, 0)


def available() -> int:
    """How many threads a loop may take now: as many as PyTorch does, one in a fork or where no team can be called."""
    return 1 if _in_a_fork or not team().start else torch.get_num_threads()


def threads_for(pieces: int, elements: int, threads: int) -> int:
    """How many of ``threads`` are worth their start, for ``elements`` that come in ``pieces``."""
    return max(1, min(threads, pieces, elements // _LEAST))
