"""Records of which calls have compiled loops on disk, and which wait for compilation: a folder of small files.

Numba stores the loops. Importing it for a query takes a second, so these records are separate files, under a key of
everything that makes Numba recompile: its version, Python's, the processor, and the sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from functools import cache
from importlib import metadata, util
from pathlib import Path

from bnkit.kernels.compilation.compile_request import CompileRequest, request_from
from bnkit.kernels.compilation.loop_sources import source_files

_COMPILED, _REQUESTED = ".compiled", ".requested"


@cache
def is_numba_installed() -> bool:
    """Whether Numba is installed; it is not imported."""
    return util.find_spec("numba") is not None


def folder() -> Path:
    """The folder of records for the loops that this process would compile; it may not exist."""
    import platformdirs  # not needed by layers that take other kernels

    root = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(root) / "bnkit" if root else platformdirs.user_cache_path("bnkit") / "loops"
    return base / _key(root)


def state_of(name: str) -> str | None:
    """The state of calls with this name: "" if their loops are on disk, an error if compilation failed, None if unknown."""
    try:
        noted = json.loads((folder() / f"{name}{_COMPILED}").read_text(encoding="utf-8"))
        error, where = str(noted["error"]), str(noted["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return error if error or Path(where).is_dir() else None


def note(name: str, kept_in: Path, error: str = "") -> None:
    """Record that the loops of calls with this name are in ``kept_in``, or that compilation failed with ``error``."""
    _write(f"{name}{_COMPILED}", {"error": error, "folder": str(kept_in)})
    (folder() / f"{name}{_REQUESTED}").unlink(missing_ok=True)


def ask_for(request: CompileRequest) -> bool:
    """Queue the request for the background compilation; False if the file cannot be written."""
    try:
        _write(f"{request.name}{_REQUESTED}", request.smallest._asdict())
    except OSError:
        return False
    return True


def requests() -> list[CompileRequest]:
    """The queued requests that are not compiled yet."""
    files = sorted(folder().glob(f"*{_REQUESTED}"))
    by_file = {file: _read(file) for file in files}
    waiting = {file: request for file, request in by_file.items() if request and state_of(request.name) is None}
    for file in by_file.keys() - waiting.keys():
        file.unlink(missing_ok=True)
    return list(waiting.values())


def _read(file: Path) -> CompileRequest | None:
    try:
        request = request_from(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return request if request.name == file.name.removesuffix(_REQUESTED) else None


def _write(name: str, values: object) -> None:
    where = folder()
    where.mkdir(parents=True, exist_ok=True)
    whole = where / f".{name}.{os.getpid()}"
    whole.write_text(json.dumps(values), encoding="utf-8")
    whole.replace(where / name)


@cache
def _key(numba_cache_folder: str | None) -> str:
    stamps = [(str(file), file.stat().st_mtime_ns, file.read_bytes()) for file in source_files()]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_CPU"))
    parts = [stamps, settings, numba_cache_folder, sys.version, metadata.version("numba"), _processor()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor as the compiler sees it: a home folder shared by several machines may hold loops for each."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:  # not on Linux
        first = []
    lines = [line for line in first if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join([platform.machine(), platform.processor(), *lines])
