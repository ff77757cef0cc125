"""The threads of a compiled loop: PyTorch's own, limited by ``torch.set_num_threads``.

PyTorch's operations on the CPU share a team of OpenMP threads; a loop of ours that runs on the same team takes two
microseconds to start, adds no threads, and finds the data in the caches of the cores that wrote it. Numba's own threading
layers kill the process in a forked worker, or if two Python threads compute at once; OpenMP gives each Python thread a
separate team.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

# The elements that justify another thread: their computation takes about as long as waking it.
_LEAST = 1 << 14
_in_a_fork = False


def _alone_from_now_on() -> None:
    global _in_a_fork  # noqa: PLW0603 - one for the process
    _in_a_fork = True


if hasattr(os, "register_at_fork"):
    # A forked process has no team, and OpenMP would wait for it for ever.
    os.register_at_fork(after_in_child=_alone_from_now_on)


class Team(NamedTuple):
    """The addresses of the functions that run a loop on PyTorch's threads; zeros if unavailable.

    Attributes:
        start: ``GOMP_parallel(function, argument, threads, flags)`` calls a function on each of ``threads`` threads.
        thread: ``omp_get_thread_num()``.
        threads: ``omp_get_num_threads()``: the actual number.
    """

    start: int
    thread: int
    threads: int


@cache
def team() -> Team:
    """The functions of PyTorch's OpenMP library, which is loaded; without a usable one, loops run on one thread.

    GNU's library has these functions, and LLVM's has them for compatibility with GNU's compiler.
    """
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    for library in [*map(str, libraries), None]:
        try:
            loaded = ctypes.CDLL(library)
            functions = (loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads)
        except (OSError, AttributeError, TypeError):  # no such library, no such functions, or Windows
            continue
        return Team(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
    return Team(0, 0, 0)


def available() -> int:
    """The number of threads that a loop may use now: as PyTorch, or one in a fork or without a usable team."""
    return 1 if _in_a_fork or not team().start else torch.get_num_threads()


def threads_for(pieces: int, elements: int, threads: int) -> int:
    """How many of ``threads`` are worth starting for ``elements`` divided into ``pieces``."""
    return max(1, min(threads, pieces, elements // _LEAST))
