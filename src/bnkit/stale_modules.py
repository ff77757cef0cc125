"""Modules that were loaded before their files changed: noticed, and imported from scratch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

from bnkit.own_modules import digest_of, imported_by, loaded_spec, package_of

# What each file held when it was noted, by the module's name and its file; and the module's specification, where it was loaded
# by then: importing again makes another one.
_noted: dict[tuple[str, Path], tuple[ModuleSpec | None, str]] = {}


def note_loaded(modules: Mapping[str, Path]) -> None:
    """Remember what the files of these modules hold, where these are or will be loaded and were not noted since."""
    for name, path in modules.items():
        spec, (before, digest) = loaded_spec(name), _noted.get((name, path.resolve()), (None, ""))
        if before is not spec or not digest:
            # One that was not loaded then, but is now, was loaded from what its file held then.
            _noted[name, path.resolve()] = (spec, digest if digest and before is None else digest_of(path))


def is_outdated(name: str) -> bool:
    """Whether that module is loaded, and its file has changed since it was noted."""
    spec = loaded_spec(name)
    if spec is None or spec.origin is None:
        return False
    before, digest = _noted.get((name, Path(spec.origin).resolve()), (None, ""))
    return bool(digest) and before in (spec, None) and digest != digest_of(Path(spec.origin))


def forget_outdated(names: Iterable[str]) -> None:
    """Let the modules among ``names`` whose files have changed, and those that import them, be imported from scratch."""
    importlib.invalidate_caches()
    loaded = {name: spec for name in names if (spec := loaded_spec(name)) is not None}
    outdated = {name for name, spec in loaded.items() if is_outdated(name) or _compiled_from_another(name, spec)}
    for name, spec in loaded.items() if outdated else ():
        if name in outdated or (spec.origin and outdated & imported_by(Path(spec.origin), package_of(spec)).keys()):
            forget(name)


def forget(name: str) -> None:
    """Let that module be imported from scratch; of a package, all that is in it: that sets its attributes."""
    for inner in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        _forget(inner)


def _forget(name: str) -> None:
    above, _, last = name.rpartition(".")
    spec, parent = loaded_spec(name), sys.modules.get(above)
    if parent is not None and vars(parent).get(last) is sys.modules[name]:
        delattr(parent, last)  # `from package import module` would find it there
    del sys.modules[name]
    if spec is None or spec.origin is None:
        return
    _noted.pop((name, Path(spec.origin).resolve()), None)
    if spec.cached is not None:
        # Python takes compiled code for current by its second and size alone.
        with suppress(OSError):
            Path(spec.cached).unlink(missing_ok=True)


def _compiled_from_another(name: str, spec: ModuleSpec) -> bool:
    """Whether a module that was not noted is that of an earlier file: Python wrote its compiled code when it imported it."""
    try:
        assert spec.origin is not None
        assert spec.cached is not None
        header, now = Path(spec.cached).read_bytes()[:16], Path(spec.origin).stat()
    except (OSError, AssertionError):
        return False
    flags, written, size = (int.from_bytes(header[start : start + 4], "little") for start in (4, 8, 12))
    is_new = (name, Path(spec.origin).resolve()) not in _noted
    return is_new and flags == 0 and (written, size) != (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF)
