"""Compiled loops in a test run of several processes: one of them compiles a loop, the others wait, and load it."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from filelock import FileLock

MODULE = "bnkit.kernels.cpu.numba_compile"
_LOCKS = Path(tempfile.gettempdir()) / f"bnkit-test-locks-{os.getuid()}"


class _Finder(MetaPathFinder):
    """Numba takes half a second to import, so its compiler is only changed once another module has imported it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _make_wait(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """From now on this process compiles a loop, or loads it, only while no other does so with the same one."""
    _LOCKS.mkdir(exist_ok=True)
    if MODULE in sys.modules:
        _make_wait(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


def _make_wait(compiling: Any) -> None:
    compile_, seen = compiling._compile, set()

    def locked(loop: Any, signature: Any, options: Any) -> Any:
        name = hashlib.sha256(f"{loop.__module__}.{loop.__qualname__}".encode()).hexdigest()[:16]
        # Traced for coverage, Numba takes half as long again, and of ours it runs the same lines for most loops: those for
        # a kind, dtype, activation or flag that came before go untraced.
        parts, trace = {loop.__name__, *loop.__qualname__.split("_")}, sys.gettrace()
        if parts <= seen:
            sys.settrace(None)
        try:
            with FileLock(_LOCKS / name):
                return compile_(loop, signature, options)
        finally:
            sys.settrace(trace)
            seen.update(parts)

    compiling._compile = locked
