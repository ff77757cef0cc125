"""Find the user's modules that a file imports, by parsing it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

# Folders of installed packages.
_INSTALL_FOLDERS = ("site-packages", "dist-packages")
# Packages that count as libraries even if installed from a checkout: their versions are recorded.
_LIBRARIES = ("bnkit", "torch")
# Functions that import a module by name.
_IMPORTERS = ("import_module", "__import__")


class _Import(NamedTuple):
    """One import: ``from <level dots>module import names``; ``whole`` if it may import any module of that package."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    whole: bool = False


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def is_user_code(path: Path | None) -> bool:
    """Whether a file is the user's: not in the standard library, an installed package, bnkit or torch.

    Packages installed in editable mode are the user's.
    """
    if path is None or any(part in _INSTALL_FOLDERS for part in path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in _library_folders())


def user_imports(path: Path, package: str = "") -> dict[str, Path]:
    """The files of the user's modules that ``path`` imports, directly or indirectly, by module name.

    Imports inside functions count, and so do Python files named in strings (for ``exec``, ``runpy``). Nothing is executed.

    Args:
        path: A Python file.
        package: The package that it belongs to, for relative imports.
    """
    modules: dict[str, Path] = {}
    queue = [(path, package)]
    while queue:
        file, package = queue.pop()
        for name, spec in _user_specs(file, package):
            if name in modules or spec.origin is None:
                continue
            modules[name] = Path(spec.origin)
            queue.append((modules[name], parent_package(spec)))
        for text in _parse(file).files:
            script = next((candidate for candidate in (file.parent / text, Path(text)) if candidate.is_file()), None)
            if (
                script is not None
                and text not in modules
                and script.resolve() != path.resolve()
                and is_user_code(script.resolve())
            ):
                modules[text] = script
                queue.append((script, ""))
    return modules


def combined_sha256(digest: str, modules: dict[str, Path]) -> str:
    """The SHA-256 of ``digest`` and the names and contents of ``modules``; ``digest`` itself if there are none."""
    # An empty file, such as an __init__.py, does not count.
    known = [(name, file_sha256(path)) for name, path in sorted(modules.items()) if path.stat().st_size]
    if not known:
        return digest
    return hashlib.sha256(repr((digest, known)).encode()).hexdigest()


def module_file(name: str) -> tuple[Path | None, str]:
    """The file that a module is imported from, or None, and the package of its relative imports."""
    spec = _spec(name)
    if spec is None or not spec.has_location or spec.origin is None:
        return None, ""
    return Path(spec.origin), parent_package(spec)


def parent_package(spec: ModuleSpec) -> str:
    """The package that relative imports of a module start from."""
    return spec.name if spec.submodule_search_locations is not None else _parent(spec.name)


def loaded_spec(name: str) -> ModuleSpec | None:
    """The spec of a loaded module; None if it is not loaded or has none."""
    module: ModuleType | None = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    return spec if isinstance(spec, ModuleSpec) else None


def _user_specs(file: Path, package: str) -> Iterator[tuple[str, ModuleSpec]]:
    """The user's modules that ``file`` imports directly, parent packages included."""
    for wanted in (*_parse(file).imports, *([_Import(package)] if package else [])):
        base = _absolute(wanted, package)
        if base is None:
            continue
        names = [base, *(f"{base}.{name}" if base else name for name in wanted.names)]
        if wanted.whole:
            names += _submodules(base, file)
        for name in filter(None, names):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                spec = _spec(".".join(parts[:end]))
                if spec is None:
                    break
                if spec.has_location and spec.origin is not None and is_user_code(Path(spec.origin).resolve()):
                    yield ".".join(parts[:end]), spec


def _absolute(wanted: _Import, package: str) -> str | None:
    """The absolute name of the module imported from; None for a relative import beyond the top-level package."""
    if wanted.level == 0:
        return wanted.module
    parts = package.split(".") if package else []
    if len(parts) < wanted.level:
        return None
    base = parts[: len(parts) - wanted.level + 1]
    return ".".join([*base, *([wanted.module] if wanted.module else [])])


def _submodules(base: str, file: Path) -> list[str]:
    """The names of the modules in the package ``base``; in the folder of ``file`` if ``base`` is empty."""
    spec = _spec(base) if base else None
    folders = (spec.submodule_search_locations if spec is not None else None) or ([] if base else [str(file.parent)])
    stems = sorted(path.stem for folder in folders for path in Path(folder).glob("*.py"))
    return [f"{base}.{stem}" if base else stem for stem in stems if stem != "__init__"]


def _spec(name: str) -> ModuleSpec | None:
    """The spec of ``name``, found without importing its parents."""
    if name.partition(".")[0] in sys.stdlib_module_names or name.partition(".")[0] in _LIBRARIES:
        return None
    loaded = loaded_spec(name)
    if loaded is not None:
        return loaded
    where = None
    if "." in name:
        parent = _spec(_parent(name))
        where = None if parent is None else parent.submodule_search_locations
        if where is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, where)
        except Exception:  # noqa: S112 - a third-party finder may raise anything
            continue
        if spec is not None:
            return spec
    return None


class _ParsedFile(NamedTuple):
    """The imports of a file, and the Python files that it names in strings."""

    imports: tuple[_Import, ...] = ()
    files: tuple[str, ...] = ()


def _parse(file: Path) -> _ParsedFile:
    return _parse_cached(file, file_sha256(file))


@lru_cache(maxsize=4096)
def _parse_cached(file: Path, digest: str) -> _ParsedFile:  # the digest makes a changed file another cache entry
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python shows them when it imports the file
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return _ParsedFile()
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    files = (text for text in texts if text.endswith(".py") and "\n" not in text)
    return _ParsedFile(tuple(dict.fromkeys(_imports(tree))), tuple(dict.fromkeys(files)))


def _imports(tree: ast.AST) -> Iterator[_Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imports(ast.Module([other], []))
            continue
        if isinstance(node, ast.Import):
            yield from (_Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield _Import(node.module or "", tuple(n for n in names if n != "*"), node.level, "*" in names)
        elif isinstance(node, ast.Call) and node.args and _function_name(node.func) in _IMPORTERS:
            yield _dynamic_import(node.args[0])
        yield from _imports(node)


def _dynamic_import(name: ast.expr) -> _Import:
    """What ``import_module(name)`` may import: for a computed name, every module of the package that it begins with."""
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        text, whole = name.value, False
    else:
        first = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else name
        first = first.left if isinstance(first, ast.BinOp) else first
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
        text, whole = text[: text.rfind(".") + 1], True
    bare = text.lstrip(".")
    return _Import(bare.rstrip("."), (), len(text) - len(bare), whole)


def _function_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


@cache
def _library_folders() -> tuple[Path, ...]:
    paths = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    if hasattr(site, "getsitepackages"):
        paths |= {*site.getsitepackages(), site.getusersitepackages()}
    folders = [Path(path) for path in paths if path]
    for package in _LIBRARIES:
        spec = importlib.util.find_spec(package)
        folders += (
            [Path(candidate) for candidate in (spec.submodule_search_locations or ())] if spec is not None else []
        )
    return tuple(sorted({folder.resolve() for folder in folders}))
