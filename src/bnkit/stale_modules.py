"""Modules that were loaded before their files changed: noticed, and imported from scratch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from bnkit.user_modules import file_sha256, loaded_spec, parent_package, user_imports

# What each file held when it was noted, by the module's name and its file; and the module's specification, where it was loaded
# by then: importing again makes another one.
_loaded_digests: dict[tuple[str, Path], tuple[ModuleSpec | None, str]] = {}


def record_loaded(modules: Mapping[str, Path]) -> None:
    """Remember what the files of these modules hold, where these are or will be loaded and were not noted since."""
    for name, path in modules.items():
        spec, (before, digest) = loaded_spec(name), _loaded_digests.get((name, path.resolve()), (None, ""))
        if before is not spec or not digest:
            # One that was not loaded then, but is now, was loaded from what its file held then.
            _loaded_digests[name, path.resolve()] = (spec, digest if digest and before is None else file_sha256(path))


def is_stale(name: str) -> bool:
    """Whether that module is loaded, and its file has changed since it was noted."""
    spec = loaded_spec(name)
    if spec is None or spec.origin is None:
        return False
    before, digest = _loaded_digests.get((name, Path(spec.origin).resolve()), (None, ""))
    return bool(digest) and before in (spec, None) and digest != file_sha256(Path(spec.origin))


def unload_stale(names: Iterable[str]) -> None:
    """Let the modules among ``names`` whose files have changed, and those that import them, be imported from scratch."""
    importlib.invalidate_caches()
    loaded = {name: spec for name in names if (spec := loaded_spec(name)) is not None}
    stale = {name for name, spec in loaded.items() if is_stale(name) or _has_stale_bytecode(name, spec)}
    for name, spec in loaded.items() if stale else ():
        if name in stale or (spec.origin and stale & user_imports(Path(spec.origin), parent_package(spec)).keys()):
            unload(name)


def unload(name: str) -> None:
    """Let that module be imported from scratch; of a package, all that is in it: that sets its attributes."""
    for inner in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        _unload(inner)


def _unload(name: str) -> None:
    above, _, last = name.rpartition(".")
    spec, parent = loaded_spec(name), sys.modules.get(above)
    if parent is not None and vars(parent).get(last) is sys.modules[name]:
        delattr(parent, last)  # `from package import module` would find it there
    del sys.modules[name]
    if spec is None or spec.origin is None:
        return
    _loaded_digests.pop((name, Path(spec.origin).resolve()), None)
    if spec.cached is not None:
        # Python takes compiled code for current by its second and size alone.
        with suppress(OSError):
            Path(spec.cached).unlink(missing_ok=True)


def _has_stale_bytecode(name: str, spec: ModuleSpec) -> bool:
    """Whether a module that was not noted is that of an earlier file: Python wrote its compiled code when it imported it."""
    try:
        assert spec.origin is not None
        assert spec.cached is not None
        header, now = Path(spec.cached).read_bytes()[:16], Path(spec.origin).stat()
    except (OSError, AssertionError):
        return False
    flags, written, size = (int.from_bytes(header[start : start + 4], "little") for start in (4, 8, 12))
    is_new = (name, Path(spec.origin).resolve()) not in _loaded_digests
    return is_new and flags == 0 and (written, size) != (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF)
