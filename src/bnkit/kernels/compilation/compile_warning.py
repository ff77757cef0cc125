"""Logs a warning when a call waits for compilation. Imports Numba."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

_LOG = logging.getLogger("bnkit")
_AFTER_SECONDS = 1.0
_has_been_said = threading.Event()


@contextmanager
def announced() -> Iterator[None]:
    """Inside, a compilation that takes longer than a second is logged as a warning, once for each process."""
    listener = _Listener()
    with event.install_listener("numba:run_pass", listener):
        try:
            yield
        finally:
            listener.timer.cancel()


def silence() -> None:
    """Disable the warning, for callers that report the compilation themselves."""
    _has_been_said.set()


class _Listener(event.Listener):
    """Starts a timer when Numba begins to compile; loops loaded from disk do not trigger it."""

    def __init__(self) -> None:
        self.timer = threading.Timer(_AFTER_SECONDS, _say)
        self.timer.daemon = True

    def on_start(self, event: Any) -> None:
        if not self.timer.ident:
            self.timer.start()

    def on_end(self, event: Any) -> None:
        pass


def _say() -> None:
    if not _has_been_said.is_set():
        _has_been_said.set()
        _LOG.warning(
            "bnkit compiles the loops of kernel='numba' for this kind of layer: some seconds, once on this machine; "
            "`bnkit warm-up` compiles them before they are needed"
        )
