"""The process of low priority that compiles what was asked for: one on a machine, which outlives whoever started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bnkit.kernels.compilation import compiled_loops

if TYPE_CHECKING:
    from filelock import FileLock

_NOTHING = subprocess.DEVNULL
_SECONDS_TO_START = 60


def command() -> list[str]:
    """The command line of a process that runs ``warm_up.main``, with this bnkit and nothing of the current folder."""
    source = str(Path(__file__).parents[3])
    path = f"import sys; {source!r} in sys.path or sys.path.insert(0, {source!r})"
    code = f"{path}; from bnkit.kernels.compilation.warm_up import main; main()"
    return [sys.executable, "-P", "-c", code]


def lock() -> FileLock:
    """Held by whoever compiles what was asked for."""
    from filelock import FileLock  # not needed by layers that take other kernels

    return FileLock(compiled_loops.folder() / "lock", timeout=0)


def _is_being_started() -> bool:
    """Whether a process was started that may not hold the lock yet, as it has PyTorch to import; if not, one is from now on."""
    mark = compiled_loops.folder() / "starting"
    if mark.exists() and abs(time.time() - mark.stat().st_mtime) < _SECONDS_TO_START:
        return True
    mark.touch()
    return False


def start() -> bool:
    """Whether such a process is at work now: one that was, or a new one."""
    from filelock import Timeout

    try:
        with lock():
            if _is_being_started():
                return True
    except Timeout:
        return True  # it looks for requests until there are none
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            flags = subprocess.DETACHED_PROCESS | subprocess.IDLE_PRIORITY_CLASS
            subprocess.Popen(command(), creationflags=flags, stdin=_NOTHING, stdout=_NOTHING, stderr=_NOTHING)
        else:
            # Started by a shell that ends at once: the process is nobody's child here, who would have to wait for its end.
            script = 'nice -n 19 "$@" &'
            shell = ["/bin/sh", "-c", script, "sh", *command()]
            subprocess.run(shell, check=True, start_new_session=True, stdin=_NOTHING, stdout=_NOTHING, stderr=_NOTHING)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
