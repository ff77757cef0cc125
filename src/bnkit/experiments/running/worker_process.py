"""What a worker process does before it loads torch. The process that starts it need not have loaded it either."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection, wait


def main(orders: Connection, output: Connection | None, number: int) -> None:
    """The life of a worker process: it ends with the one that started it, prints to ``output``, and obeys ``orders``.

    Args:
        orders, number: As of ``worker.serve``.
        output: Where everything goes that is printed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; who sent us here ends us
    _end_with_parent()
    if output is not None:
        _print_to(output)
    from bnkit.experiments.running.worker import serve

    serve(orders, number)


def _end_with_parent() -> None:
    """End this process at once when the one that started it ends, however that happens."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="bnkit-parent").start()


def _print_to(output: Connection) -> None:
    """Let everything that this process prints, C libraries and a crash included, go to ``output``."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    faulthandler.enable()
