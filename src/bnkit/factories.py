"""Somebody's own code, named ``path/to/file.py:name`` or ``package.module:name``. Naming it is what allows it to run."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bnkit.errors import FactoryError

_TARGET = re.compile(r"^(?P<place>.+):(?P<name>[A-Za-z_][A-Za-z0-9_]*)$")

# What stands in an experiment for data or a function that `bnkit.compare` was given as such.
GIVEN = "given"

# How the names of modules begin that come from a file.
TARGET_MODULES = "_bnkit_target_"


class Target(NamedTuple):
    """What a target's name stands for, and the SHA-256 of the file that it was found in."""

    value: Any
    digest: str


def is_target(name: str) -> bool:
    """Whether ``name`` has the form of a target."""
    return _TARGET.match(name) is not None


def find(name: str) -> Target:
    """What ``name`` stands for. Beside a file, and in the working directory, it may import what Python would find there.

    Raises:
        FactoryError: There is no such file, module or name, or importing it raises.
    """
    match = _TARGET.match(name)
    if match is None:
        raise FactoryError(f"{name!r} names no factory; expected path/to/file.py:name or package.module:name")
    place, attribute = match["place"], match["name"]
    try:
        module = _from_file(Path(place).expanduser()) if place.endswith(".py") else _imported(place)
    except FactoryError:
        raise
    except ModuleNotFoundError as error:
        raise FactoryError(f"{name}: {error}; expected path/to/file.py:name or package.module:name") from error
    except (Exception, SystemExit) as error:
        raise FactoryError(
            f"{name}: importing {place} raised {type(error).__name__}: {error}; mend it first"
        ) from error
    if not hasattr(module, attribute):
        names = ", ".join(sorted(key for key in vars(module) if not key.startswith("_")))
        raise FactoryError(f"{name}: {place} has no {attribute!r}; it has {names or 'no public names'}")
    file = getattr(module, "__file__", None)
    content = Path(file).read_bytes() if file else b""
    return Target(getattr(module, attribute), hashlib.sha256(content).hexdigest())


def _imported(place: str) -> ModuleType:
    _search(Path.cwd())
    return importlib.import_module(place)


def _search(folder: Path) -> None:
    """Let imports find what is in ``folder``, after everything else: a script has its folder there, a command has not."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FactoryError(f"{path} is not there; expected a Python file")
    _search(path.resolve().parent)
    # A name that nothing else has, so that a file called like a package does not stand in for it.
    name = f"{TARGET_MODULES}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look classes up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
