"""Import a user's function from ``path/to/file.py:name`` or ``package.module:name``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bnkit import parse_imports
from bnkit.errors import FactoryError
from bnkit.reload_changed_modules import record_loaded, unload, unload_stale

# The functions that a message names.
_NAMED = 3
_FACTORY_NAME = re.compile(r"^(?P<location>.+):(?P<name>[A-Za-z_][A-Za-z0-9_]*)$")

# Represents data or a function in an experiment that was passed to `bnkit.compare` as an object.
PASSED_OBJECT = "given"

# Prefix of the module names of files that are imported by path.
MODULE_PREFIX = "_bnkit_target_"

# Folders that were appended to sys.path for a factory, the latest first.
_import_folders: list[str] = []
# The user's modules that each factory imports: two factories may import different files under one name.
_imports_of: dict[str, dict[str, Path]] = {}


class Factory(NamedTuple):
    """An imported object and the SHA-256 of its source: of its file and the user's modules that this imports."""

    value: Any
    digest: str


def is_factory_name(name: str) -> bool:
    """Whether ``name`` has the form ``file.py:name`` or ``package.module:name``."""
    return _FACTORY_NAME.match(name) is not None


def what_it_is(name: str) -> str:
    """The end of a message about ``name`` in place of a factory, if it is a file, a folder or an address; otherwise empty.

    Examples:
        >>> what_it_is("https://example.com/net.py")
        '; that is an address: download the file, and give its path'
    """
    path = Path(name)
    if re.match(r"\w{2,}://?\w", name):  # one letter is a drive of Windows
        return "; that is an address: download the file, and give its path"
    if path.is_dir() and name.strip():
        return f"; {name} is a folder"
    if path.suffix != ".py" or not path.is_file():
        return ""
    functions = ""
    with suppress(OSError, SyntaxError, ValueError):
        code = ast.parse(path.read_bytes()).body
        names = [each.name for each in code if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
        public = [each for each in names if not each.startswith("_")]
        functions = " or ".join(f"{name}:{each}" for each in public[:_NAMED])
    return f"; {name} is a file: name a function in it, as {functions or f'{name}:factory'}"


def refuse_required_arguments(name: str, factory: Callable[..., object], available: Iterable[str] = ()) -> None:
    """Raise if ``factory``, called ``name`` by the user, requires arguments other than ``given``.

    Raises:
        FactoryError: If it does; the message has a factory that does not.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind in named]
    needed = [each for each in needed if each not in available]
    if needed:
        called = getattr(factory, "__name__", "factory")
        raise FactoryError(
            f"{name} requires the argument{'' if len(needed) == 1 else 's'} {', '.join(needed)}; expected a factory that needs "
            f"none, such as def make(): return {called}({', '.join(f'{each}=…' for each in needed)})"
        )


def load_factory(name: str) -> Factory:
    """The object that ``name`` refers to. It may import from the folder of its file, or the working directory.

    A file is executed on each call. Modules that it imports are imported again if their files have changed.

    Raises:
        FactoryError: If there is no such file, module or name, or importing it raises.
    """
    match = _FACTORY_NAME.match(name)
    if match is None:
        raise FactoryError(
            f"{name!r} names no factory; expected path/to/file.py:name or package.module:name{what_it_is(name)}"
        )
    location, attribute = match["location"], match["name"]
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
            f"{name}: importing {location} raised {type(error).__name__}: {error}; fix that first"
        ) from error
    if not hasattr(module, attribute) and getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
        raise FactoryError(
            f"{name}: {location} is a folder without Python code of that name; expected a file or a module"
        )
    if not hasattr(module, attribute):
        names = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise FactoryError(f"{name}: {location} has no {attribute!r}; it has {names or 'no public names'}")
    return Factory(getattr(module, attribute), digest)


def _load_module(location: str) -> tuple[ModuleType, str, dict[str, Path]]:
    # Not by pkgutil.resolve_name: its AttributeError for a missing name is also that of a module that raises one.
    _add_to_path(Path.cwd())
    unload_stale([location, *_imports_of_module(location)])
    module = importlib.import_module(location)
    file = getattr(module, "__file__", None)
    if not file:
        return module, hashlib.sha256().hexdigest(), {}
    imported = _imports_of_module(location)
    record_loaded({location: Path(file), **imported})
    return module, parse_imports.combined_sha256(parse_imports.file_sha256(Path(file)), imported), imported


def _imports_of_module(location: str) -> dict[str, Path]:
    """The user's modules that the module ``location`` imports; empty if that is not the user's."""
    file, package = parse_imports.module_file(location)
    return (
        parse_imports.user_imports(file, package)
        if file is not None and parse_imports.is_user_code(file.resolve())
        else {}
    )


def factory_modules(*, with_imports: bool = True) -> list[ModuleType]:
    """The modules made from files, and, if ``with_imports``, the user's modules that factories import."""
    names = {name for names in _imports_of.values() for name in names} if with_imports else set()
    return [module for name, module in list(sys.modules.items()) if MODULE_PREFIX in name or name in names]


def refuse_clashes(names: Iterable[str]) -> None:
    """Raise if two factories of one comparison import different files under one module name: a process can load only one.

    Raises:
        FactoryError: If two of ``names``, all loaded by ``load_factory``, do.
    """
    owners: dict[str, tuple[str, Path]] = {}
    for factory in names:
        for name, path in _imports_of.get(factory, {}).items():
            other, there = owners.setdefault(name, (factory, path))
            if there.resolve() != path.resolve():
                raise FactoryError(
                    f"{other} imports {name} from {there}, and {factory} imports it from {path}; rename one of the two: a "
                    "process has one module of a name"
                )


def _add_to_path(folder: Path) -> None:
    """Append ``folder`` to ``sys.path``, as Python does for a script, ahead of the folders of other factories.

    Modules imported from those are unloaded if ``folder`` has one of the same name.
    """
    location = str(folder)
    if location in sys.path and location not in _import_folders:
        return
    others = [other for other in _import_folders if other != location]
    for name in [name for name in sys.modules if "." not in name]:
        spec = parse_imports.loaded_spec(name)
        if spec is None:
            continue
        # A package has a folder of its own, a namespace package several.
        inside = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else [])]
        lies_there = any(str(Path(path).parent) in others for path in inside)
        if lies_there and ((folder / f"{name}.py").is_file() or (folder / name).is_dir()):
            unload(name)
    sys.path[:] = [*(other for other in sys.path if other not in _import_folders), location, *others]
    _import_folders[:] = [location, *others]


def _load_file(path: Path) -> tuple[ModuleType, str, dict[str, Path]]:
    if not path.is_file():
        raise FactoryError(f"{path} does not exist; expected a Python file{what_it_is(str(path))}")
    folder = path.resolve().parent
    _add_to_path(folder)
    content = path.read_bytes()
    package = _package_of(path) if re.search(rb"^\s*from\s+\.", content, re.MULTILINE) else ""
    # A unique name, so that a file named like a package does not shadow it.
    name = f"{MODULE_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    name = f"{package}.{name}" if package else name
    unload_stale(_imports_of_file(path, package))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    try:
        # Not by its loader, which would accept bytecode of another version with the same second and size.
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))  # noqa: S102
    except BaseException:
        sys.modules.pop(name, None)
        raise
    imported = _imports_of_file(path, package)
    record_loaded(imported)
    return module, parse_imports.combined_sha256(hashlib.sha256(content).hexdigest(), imported), imported


def _package_of(path: Path) -> str:
    """The package that ``path`` is in, made importable; empty if its folder is not a package."""
    names, folder = list[str](), path.resolve().parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    if names:
        _add_to_path(folder)
    return ".".join(names)


def _imports_of_file(path: Path, package: str) -> dict[str, Path]:
    """The user's modules that ``path`` imports.

    Raises:
        FactoryError: If a module next to ``path`` is shadowed by another of the same name.
    """
    modules = parse_imports.user_imports(path, package)
    for name, file in modules.items():
        if "." in name:
            continue
        candidates = (path.resolve().parent / f"{name}.py", path.resolve().parent / name / "__init__.py")
        sibling = next((location for location in candidates if location.is_file()), None)
        if sibling is not None and file.resolve() != sibling.resolve():
            raise FactoryError(
                f"{path} is next to {sibling.name if sibling.name != '__init__.py' else name}, but its import of {name} finds "
                f"{file}, which comes first in this process; rename one of the two"
            )
    return modules
