"""Compiling ahead, on all cores, into the caches on disk that processes share: one after the other would take all the time there is."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait

from benchmarks.gpu_parts import checks, layers, networks
from benchmarks.gpu_parts.device import Bench

# Cores that stay for the system and this process.
_SPARE = 2
# A process holds a context on the device, and the tensors of a ResNet-50.
_MOST_WORKERS = 14


def compile_ahead(bench: Bench, seconds: float) -> None:
    """Compile what the parts need, for at most ``seconds``; what is not ready then is compiled when it is measured."""
    if bench.is_dry:
        return
    # Inductor starts processes of its own in each of ours otherwise.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    # The longest and the most telling first.
    todo: list[Callable[[], object]] = [*networks.warm_ups(bench.device), *checks.warm_ups(bench.device)]
    todo += layers.warm_ups(bench.device)
    workers = max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) - _SPARE))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(work) for work in todo]
        done, late = wait(running, timeout=seconds)
        for one in late:
            one.cancel()
        for process in list((pool._processes or {}).values()) if late else ():
            process.terminate()
    failed = [str(one.exception()) for one in done if not one.cancelled() and one.exception() is not None]
    bench.notes.append(f"compiled ahead: {len(done) - len(failed)} of {len(todo)} {failed[:1] or ''}".rstrip())
