"""A user's own code, named ``path/to/file.py:name`` or ``package.module:name``. Naming it is what allows it to run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bnkit import user_modules
from bnkit.errors import FactoryError
from bnkit.stale_modules import record_loaded, unload, unload_stale

_FACTORY_NAME = re.compile(r"^(?P<place>.+):(?P<name>[A-Za-z_][A-Za-z0-9_]*)$")

# What stands in an experiment for data or a function that `bnkit.compare` was given as such.
PASSED_OBJECT = "given"

# How the names of modules begin that come from a file.
MODULE_PREFIX = "_bnkit_target_"

# The folders that imports find modules in for the sake of a target, the latest first, after all others.
_import_folders: list[str] = []
# What the modules of the user's own behind each target were, by name: two targets may mean others by one name.
_imports_of: dict[str, dict[str, Path]] = {}


class Factory(NamedTuple):
    """What a target's name stands for, and a SHA-256 of the file that it was found in.

    Where that file imports other modules of the user's own, the digest is one of all of them.
    """

    value: Any
    digest: str


def is_factory_name(name: str) -> bool:
    """Whether ``name`` has the form of a target."""
    return _FACTORY_NAME.match(name) is not None


def load_factory(name: str) -> Factory:
    """What ``name`` stands for. Beside a file, and in the working directory, it may import what Python would find there.

    A file is run each time. Of the modules that it imports, those whose files have changed are imported from scratch.

    Raises:
        FactoryError: There is no such file, module or name, or importing it raises.
    """
    match = _FACTORY_NAME.match(name)
    if match is None:
        raise FactoryError(f"{name!r} names no factory; expected path/to/file.py:name or package.module:name")
    location, attribute = match["place"], match["name"]
    try:
        module, digest, _imports_of[name] = (
            _load_file(Path(location).expanduser()) if location.endswith(".py") else _load_module(location)
        )
    except FactoryError:
        raise
    except ModuleNotFoundError as error:
        raise FactoryError(f"{name}: {error}; expected path/to/file.py:name or package.module:name") from error
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{name}: importing {location} raised {type(error).__name__}: {error}; mend it first"
        ) from error
    if not hasattr(module, attribute):
        names = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise FactoryError(f"{name}: {location} has no {attribute!r}; it has {names or 'no public names'}")
    return Factory(getattr(module, attribute), digest)


def _load_module(location: str) -> tuple[ModuleType, str, dict[str, Path]]:
    _add_to_path(Path.cwd())
    unload_stale([location, *_imports_of_module(location)])
    module = importlib.import_module(location)
    file = getattr(module, "__file__", None)
    if not file:
        return module, hashlib.sha256().hexdigest(), {}
    imported = _imports_of_module(location)
    record_loaded({location: Path(file), **imported})
    return module, user_modules.combined_sha256(user_modules.file_sha256(Path(file)), imported), imported


def _imports_of_module(location: str) -> dict[str, Path]:
    """The modules of the user's own that the module ``location`` imports; none where it is not the user's own."""
    file, package = user_modules.module_file(location)
    return (
        user_modules.user_imports(file, package)
        if file is not None and user_modules.is_user_code(file.resolve())
        else {}
    )


def factory_modules(*, with_imports: bool = True) -> list[ModuleType]:
    """The modules that files named as targets became, and, if ``with_imports``, those of the user's own that are loaded for them."""
    names = {name for names in _imports_of.values() for name in names} if with_imports else set()
    return [module for name, module in list(sys.modules.items()) if MODULE_PREFIX in name or name in names]


def refuse_clashes(names: Iterable[str]) -> None:
    """Refuse targets of one comparison that mean different modules by one name: only one of them can be loaded.

    Raises:
        FactoryError: Two of ``names``, which ``load_factory`` has found, do.
    """
    owners: dict[str, tuple[str, Path]] = {}
    for target in names:
        for name, path in _imports_of.get(target, {}).items():
            other, there = owners.setdefault(name, (target, path))
            if there.resolve() != path.resolve():
                raise FactoryError(
                    f"{other} imports {name} from {there}, and {target} imports it from {path}; rename one of the two: a "
                    "process has one module of a name"
                )


def _add_to_path(folder: Path) -> None:
    """Let imports find what is in ``folder``, after everything else: a script has its folder there, a command has not.

    Before the folders of other targets, and modules that were imported from those do not stand in for what lies here.
    """
    location = str(folder)
    if location in sys.path and location not in _import_folders:
        return
    others = [other for other in _import_folders if other != location]
    for name in [name for name in sys.modules if "." not in name]:
        spec = user_modules.loaded_spec(name)
        if spec is None:
            continue
        # A package lies in a folder of its own, one without a file (a namespace) in several.
        inside = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
        lies_there = any(str(Path(path).parent) in others for path in inside)
        if lies_there and ((folder / f"{name}.py").is_file() or (folder / name).is_dir()):
            unload(name)
    sys.path[:] = [*(other for other in sys.path if other not in _import_folders), location, *others]
    _import_folders[:] = [location, *others]


def _load_file(path: Path) -> tuple[ModuleType, str, dict[str, Path]]:
    if not path.is_file():
        raise FactoryError(f"{path} is not there; expected a Python file")
    folder = path.resolve().parent
    _add_to_path(folder)
    content = path.read_bytes()
    package = _package_of(path) if re.search(rb"^\s*from\s+\.", content, re.MULTILINE) else ""
    # A name that nothing else has, so that a file called like a package does not stand in for it.
    name = f"{MODULE_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    name = f"{package}.{name}" if package else name
    unload_stale(_imports_of_file(path, package))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look classes up there
    try:
        # Not by its loader, which takes compiled code of the same second and size for that of this file.
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102
    except BaseException:
        sys.modules.pop(name, None)
        raise
    imported = _imports_of_file(path, package)
    record_loaded(imported)
    return module, user_modules.combined_sha256(hashlib.sha256(content).hexdigest(), imported), imported


def _package_of(path: Path) -> str:
    """The package whose folder ``path`` lies in, which can be imported then; empty where that is no package."""
    names, folder = list[str](), path.resolve().parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if names:
        _add_to_path(folder)
    return ".".join(names)


def _imports_of_file(path: Path, package: str) -> dict[str, Path]:
    """The modules of the user's own behind ``path``.

    Raises:
        FactoryError: One that lies beside it would not be imported, because another of that name is in its place.
    """
    found = user_modules.user_imports(path, package)
    for name, file in found.items():
        if "." in name:
            continue
        candidates = (path.resolve().parent / f"{name}.py", path.resolve().parent / name / "__init__.py")
        beside = next((location for location in candidates if location.is_file()), None)
        if beside is not None and file.resolve() != beside.resolve():
            raise FactoryError(
                f"{path} lies beside {beside.name if beside.name != '__init__.py' else name}, and what it imports as {name} is "
                f"{file}, which this process found first; rename one of the two"
            )
    return found
