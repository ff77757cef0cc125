"""Find what a function uses outside its own source: functions and values around it, and the user's modules."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnkit.errors import FactoryError
from bnkit.experiments.function_source import functions_in, is_plain_value, source_code
from bnkit.parse_imports import file_sha256, is_user_code, loaded_spec, module_file, user_imports
from bnkit.reload_changed_modules import is_stale, record_loaded

PLAIN = (bool, int, float, complex, str, bytes, range, type(None))
# Standard-library types whose contents count; others (loggers, locks, files) hold the state of a process.
_HOLDERS = ("builtins", "collections", "types", "argparse", "functools")
_LIBRARY_VALUES = (torch.dtype, torch.device, torch.Size, np.dtype, np.generic, enum.Enum, Path)
# Methods that mutate their object: a list that a function appends to is not a setting.
_CHANGES = frozenset(
    {"append", "extend", "insert", "add", "update", "setdefault", "pop", "clear", "remove", "appendleft"}
)


def references_of(function: object) -> tuple[str, ...]:
    """Sorted descriptions of what the callable ``function`` refers to, the same in every process.

    Its own source and the plain values that it holds are left out. In the module that defines it, only what it uses counts;
    the user's other modules count as a whole.

    Raises:
        FactoryError: If the file of a module has changed since this process loaded it.
    """
    collector = _ReferenceCollector(_home_of(function))
    collector.collect(function)
    return tuple(sorted(collector.references))


class _ReferenceCollector:
    """Follows references from object to object."""

    def __init__(self, home: str) -> None:
        self.references: set[str] = set()
        self._home = home
        self._seen: set[int] = set()
        self._alive: list[object] = []  # keeps objects alive, so that ids are unique
        self._root: object = None

    def collect(self, function: object) -> None:
        """Follow what ``function`` refers to."""
        self._root = function
        file, _ = module_file(self._home)
        if file is not None and is_user_code(file.resolve()):
            self._refuse_stale({self._home: file})
        self._value("", function)

    def _value(self, name: str, value: Any) -> None:  # noqa: C901, PLR0912 - one branch a kind of value
        if isinstance(value, (*PLAIN, *_LIBRARY_VALUES)):
            self.references.add(f"{name}={value!r}")
            return
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._alive.append(value)
        kind = type(value).__module__.partition(".")[0]
        if kind in sys.stdlib_module_names and kind not in _HOLDERS and not isinstance(value, (type, ModuleType)):
            return
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous()
            self._content(name, (tuple(value.shape), value.dtype), content.flatten().view(torch.uint8).numpy())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._content(name, (value.shape, value.dtype), np.ascontiguousarray(value))
        elif isinstance(value, ModuleType):
            self._module(value.__name__)
        elif isinstance(value, functools.partial):
            self._value(name, value.func)
            self._each(name, [*value.args, *value.keywords.items()], is_held=value is self._root)
        elif isinstance(value, MethodType):
            self._value(name, value.__func__)
            self._value(name, value.__self__)
        elif isinstance(value, FunctionType):
            self._function(name, value)
        elif isinstance(value, type):
            self._class(name, value)
        elif isinstance(value, Mapping):
            self._each(name, list(value.items()))
        elif isinstance(value, (list, tuple)):
            self._each(name, value)
        elif isinstance(value, (set, frozenset)):
            self._each(name, sorted(value, key=repr))
        elif inspect.isroutine(value):
            self._library(name, value)
        else:
            self._object(name, value)

    def _each(self, name: str, values: Any, *, is_held: bool = False) -> None:
        for number, value in enumerate(values):
            if not (is_held and is_plain_value(value)):
                self._value(f"{name}.{number}", value)

    def _function(self, name: str, function: FunctionType) -> None:
        code, is_root = function.__code__, self._is_root(function)
        if not _is_user_module(function.__module__):
            self._library(name, function)
        elif function.__module__ != self._home and loaded_spec(function.__module__) is not None:
            self.references.add(f"{function.__module__}.{function.__qualname__}")
            self._module(function.__module__)
        else:
            if not is_root or hasattr(
                function, "__wrapped__"
            ):  # the source of a wrapped function is not that of the wrapper
                self.references.add(source_code(code))
            self._code(code, function.__globals__)
        changed = _changed_in(code)
        cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
        held = [(key, cell.cell_contents) for key, cell in cells if key not in changed and _is_filled(cell)]
        held += [(str(number), value) for number, value in enumerate(function.__defaults__ or ())]
        for key, value in held:
            if not (is_root and is_plain_value(value)):
                self._value(f"{name}.{key}", value)
        for key, value in (function.__kwdefaults__ or {}).items():
            self._value(f"{name}.{key}", value)

    def _class(self, name: str, kind: type) -> None:
        if not _is_user_module(kind.__module__):
            self._library(name, kind)
            return
        if kind.__module__ != self._home and loaded_spec(kind.__module__) is not None:
            self.references.add(f"{kind.__module__}.{kind.__qualname__}")
            self._module(kind.__module__)
            return
        if not self._is_root(kind):
            self.references.add(source_code(kind))
        for base in kind.__bases__:
            self._value("", base)
        for key, value in vars(kind).items():
            for function in functions_in(value):
                if function.__module__ == kind.__module__:
                    self._code(function.__code__, function.__globals__)
                    self._each(key, function.__defaults__ or ())

    def _object(self, name: str, value: object) -> None:
        is_user_code = _is_user_module(type(value).__module__)
        if value is not self._root:
            self.references.add(f"{name} is a {type(value).__module__}.{type(value).__qualname__}")
        self._value(name, type(value))
        if isinstance(value, nn.Module):
            if value is not self._root:
                self._each(name, list(value.state_dict().items()))
            for child in value.children():
                self._value(name, child)
        for key, held in sorted(getattr(value, "__dict__", {}).items()):
            # Of a library's object only public attributes: private ones are its internal state.
            if (is_user_code or not key.startswith("_")) and not (value is self._root and is_plain_value(held)):
                self._value(f"{name}.{key}", held)

    def _code(self, code: CodeType, names: Mapping[str, Any]) -> None:
        """Follow the globals that a function's code reads, and the modules that it imports."""
        changed = _changed_in(code)
        previous: list[Any] = [None, None]
        package = str(names.get("__package__") or "")
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in names and step.argval not in changed:
                self._value(step.argval, names[step.argval])
            elif step.opname == "IMPORT_NAME":
                level, fetched = previous[0] or 0, previous[1]
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                full = ".".join([*base, *([step.argval] if step.argval else [])])
                for name in (full, *(f"{full}.{part}" for part in fetched or ())):
                    self._module(name)
            elif isinstance(step.argval, str) and {"import_module", "__import__"} & {*code.co_names}:
                self._module(step.argval)
            previous = [previous[1], step.argval]
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, names)

    def _module(self, name: str) -> None:
        """Record the digests of a user's module and of those that it imports."""
        if name == self._home or not name.replace(".", "").replace("_", "").isalnum():
            return
        file, package = module_file(name)
        if file is None or not is_user_code(file.resolve()):
            return
        modules = {name: file, **user_imports(file, package)}
        self._refuse_stale(modules)
        for module, path in modules.items():
            if module != self._home and path.stat().st_size:
                self.references.add(f"{module}#{file_sha256(path)}")

    @staticmethod
    def _refuse_stale(modules: Mapping[str, Path]) -> None:
        record_loaded(modules)
        for name, path in modules.items():
            if is_stale(name):
                raise FactoryError(
                    f"{path} was changed after this process imported it, and this process still runs the old code; import it "
                    f"again (importlib.reload), start again, or name the factory as path/to/file.py:name"
                )

    def _library(self, name: str, value: Any) -> None:
        """Record a library's function or class that is used under another name."""
        called = str(getattr(value, "__qualname__", type(value).__qualname__))
        if not self._is_root(value) and name != called.rpartition(".")[2]:
            self.references.add(f"{name} is {getattr(value, '__module__', '')}.{called}")

    def _content(self, name: str, form: object, content: Any) -> None:
        self.references.add(f"{name}={form!r} {hashlib.sha256(content.tobytes()).hexdigest()}")

    def _is_root(self, value: object) -> bool:
        """Whether ``value`` is the root, or the function that a partial or a method of it calls."""
        root: Any = self._root
        while isinstance(root, functools.partial):
            root = root.func
        return value is root or value is getattr(root, "__func__", None) or value is type(root)


def _home_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    kind = function if inspect.isroutine(function) or isinstance(function, type) else type(function)
    return str(getattr(kind, "__module__", ""))


def _is_user_module(name: str | None) -> bool:
    module = sys.modules.get(name or "")
    file = getattr(module, "__file__", None)
    if file is None:  # a notebook, or generated code
        return name in (None, "__main__") or module is None
    return is_user_code(Path(file).resolve())


def _changed_in(code: CodeType) -> frozenset[str]:
    """The names of outer variables that a function assigns or mutates."""
    changed: set[str] = set()
    held = ""
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_GLOBAL", "STORE_DEREF") or (step.opname == "STORE_SUBSCR" and held):
            changed.add(held if step.opname == "STORE_SUBSCR" else step.argval)
        elif step.opname in ("LOAD_METHOD", "LOAD_ATTR") and step.argval in _CHANGES:
            changed.add(held)
        if step.opname.startswith("LOAD_") and step.opname in ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME"):
            held = step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            changed |= _changed_in(constant)
    return frozenset(changed)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
