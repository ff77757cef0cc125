"""The low-priority process that compiles requested loops: one per machine; it outlives the process that started it."""

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
    """The command line of a process that runs ``warm_up.main``, with this bnkit, and without modules of the current folder."""
    source = str(Path(__file__).parents[3])
    path = f"import sys; {source!r} in sys.path or sys.path.insert(0, {source!r})"
    code = f"{path}; from bnkit.kernels.compilation.warm_up import main; main()"
    return [sys.executable, "-P", "-c", code]


def lock() -> FileLock:
    """The lock of the process that compiles requested loops."""
    from filelock import FileLock  # not needed by layers with other kernels

    return FileLock(compiled_loops.folder() / "lock", timeout=0)


def _is_being_started() -> bool:
    """Whether a process was started but may still be importing PyTorch, without the lock; if not, mark one as started."""
    mark = compiled_loops.folder() / "starting"
    if mark.exists() and abs(time.time() - mark.stat().st_mtime) < _SECONDS_TO_START:
        return True
    mark.touch()
    return False


def start() -> bool:
    """Start such a process unless one is running, and return whether one is running now."""
    from filelock import Timeout

    try:
        with lock():
            if _is_being_started():
                return True
    except Timeout:
        return True  # it looks for requests until none are left
    except OSError:
        return False
    try:
        if sys.platform == "win32":
            flags = subprocess.DETACHED_PROCESS | subprocess.IDLE_PRIORITY_CLASS
            subprocess.Popen(command(), creationflags=flags, stdin=_NOTHING, stdout=_NOTHING, stderr=_NOTHING)
        else:
            # Started by a shell that exits at once, so that it is not a child of this process, which would have to wait for it.
            script = 'nice -n 19 "$@" &'
            shell = ["/bin/sh", "-c", script, "sh", *command()]
            subprocess.run(shell, check=True, start_new_session=True, stdin=_NOTHING, stdout=_NOTHING, stderr=_NOTHING)
    except (OSError, subprocess.SubprocessError):
        return False
    return True
