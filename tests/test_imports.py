from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bnkit

SOURCE = Path(bnkit.__file__).parent
# A package imports from those to its right, and from the modules beside the packages, which import from no package.
ORDER = [
    {"cli", "integrations"},
    {"claims"},
    {"comparison", "demonstrations"},
    {"integrations"},
    {"checks"},
    {"report"},
    {"experiments"},
    {"model", "data"},
    {"nn", "memory"},
    {"kernels", "intervals"},
    {""},
]
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}


# The public names are loaded when they are asked for.
FILES = [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]


def _name(file):
    return ".".join(("bnkit", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {_name(file) for file in FILES}


def _package(module):
    """The package of ``bnkit`` that ``module`` is in; empty for a module beside the packages."""
    name = module.split(".")[1] if "." in module else ""
    return name if (SOURCE / name).is_dir() else ""


def _imports(file):
    """The modules of bnkit that ``file`` imports, inside of functions and for types too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            # Of a package, a module of it may be imported, which then stands in for the package.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names += [name if name in MODULES else node.module for name in inner]
        yield from (name for name in names if name.partition(".")[0] == "bnkit")


@pytest.mark.parametrize("package", sorted(LEVEL))
def test_imports_run_one_way(package):
    against = []
    for file in FILES:
        parts = file.relative_to(SOURCE).parts
        if (parts[0] if len(parts) > 1 else "") == package:
            against += [
                f"{file.relative_to(SOURCE)} imports {name}"
                for name in _imports(file)
                if name != "bnkit" and _package(name) != package and LEVEL[_package(name)] <= LEVEL[package]
            ]
    assert against == []


def test_no_file_imports_itself_through_others():
    """Of types too: a circle cannot be read from its beginning."""
    needs = {_name(file): set(_imports(file)) & MODULES - {_name(file)} for file in FILES}
    while free := [name for name, needed in needs.items() if not needed]:
        needs = {name: needed - set(free) for name, needed in needs.items() if name not in free}
    assert needs == {}


def test_every_package_has_a_level():
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} == set(LEVEL) - {""}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["report", "intervals"])
def test_a_report_loads_no_torch(package):
    modules = [_name(file) for file in FILES if file.relative_to(SOURCE).parts[0] == package]
    program = (
        f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "False"
