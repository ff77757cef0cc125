"""Several threads for one loop: as many as ``torch.set_num_threads`` says, of our own.

Numba's own threading layers end the process in a forked worker, or where two Python threads compute at once. These
threads take work from a queue, so that any number of callers may share them, and a fork starts with none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603 - one for the process; after a fork its threads are not there any more
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


# So many elements are worth the start of another thread.
_LEAST = 1 << 15


def parts_for(size: int, work: int) -> int:
    """How many threads are worth their start, for ``work`` elements that come in ``size`` pieces."""
    if work < 2 * _LEAST:
        return 1
    return max(1, min(torch.get_num_threads(), size, work // _LEAST))


def in_parts(parts: int, size: int, call: Callable[[int, int, int], object]) -> None:
    """Call ``call(part, start, end)`` for ``parts`` that make up ``range(size)``, side by side.

    It has to release the interpreter's lock to gain anything.
    """
    if parts == 1:
        call(0, 0, size)
        return
    bounds = [size * part // parts for part in range(parts + 1)]
    pool = _obtain_pool()
    others = [pool.submit(call, part, bounds[part], bounds[part + 1]) for part in range(1, parts)]
    call(0, 0, bounds[1])
    for other in others:
        other.result()


def _obtain_pool() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="bnkit")
    return _pool
