"""Detect loaded modules whose files have changed, and unload them so that they are imported again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from bnkit.parse_imports import file_sha256, loaded_spec, parent_package, user_imports

# By module name and file: the digest of the file when it was recorded, and the spec of the module if it was loaded by then
# (importing it again makes another spec).
_loaded_digests: dict[tuple[str, Path], tuple[ModuleSpec | None, str]] = {}


def record_loaded(modules: Mapping[str, Path]) -> None:
    """Record the digests of the files of ``modules``, unless they were recorded since these were loaded."""
    for name, path in modules.items():
        spec, (before, digest) = loaded_spec(name), _loaded_digests.get((name, path.resolve()), (None, ""))
        if before is not spec or not digest:
            # A module loaded since then was loaded from the file as recorded.
            _loaded_digests[name, path.resolve()] = (spec, digest if digest and before is None else file_sha256(path))


def is_stale(name: str) -> bool:
    """Whether the module is loaded and its file has changed since it was recorded."""
    spec = loaded_spec(name)
    if spec is None or spec.origin is None:
        return False
    before, digest = _loaded_digests.get((name, Path(spec.origin).resolve()), (None, ""))
    return bool(digest) and before in (spec, None) and digest != file_sha256(Path(spec.origin))


def unload_stale(names: Iterable[str]) -> None:
    """Unload the modules among ``names`` whose files have changed, and those that import them."""
    importlib.invalidate_caches()
    loaded = {name: spec for name in names if (spec := loaded_spec(name)) is not None}
    stale = {name for name, spec in loaded.items() if is_stale(name) or _has_stale_bytecode(name, spec)}
    for name, spec in loaded.items() if stale else ():
        if name in stale or (spec.origin and stale & user_imports(Path(spec.origin), parent_package(spec)).keys()):
            unload(name)


def unload(name: str) -> None:
    """Remove a module from ``sys.modules``; of a package, all its modules, because importing them sets its attributes."""
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
        # Python compares cached bytecode by second and size only.
        with suppress(OSError):
            Path(spec.cached).unlink(missing_ok=True)


def _has_stale_bytecode(name: str, spec: ModuleSpec) -> bool:
    """Whether an unrecorded module was loaded from an earlier version of its file, by the bytecode that Python wrote then."""
    try:
        assert spec.origin is not None
        assert spec.cached is not None
        header, now = Path(spec.cached).read_bytes()[:16], Path(spec.origin).stat()
    except (OSError, AssertionError):
        return False
    flags, written, size = (int.from_bytes(header[start : start + 4], "little") for start in (4, 8, 12))
    is_new = (name, Path(spec.origin).resolve()) not in _loaded_digests
    return is_new and flags == 0 and (written, size) != (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF)
