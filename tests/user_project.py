"""Projects of a user's own: files in a folder of their own, imported and forgotten again."""

from __future__ import annotations

import sys

import pytest

from bnkit import import_user_function
from bnkit.parse_imports import loaded_spec


@pytest.fixture(name="project")
def a_project(tmp_path, monkeypatch):
    """A function that writes files into an empty folder, which is the working directory; nothing of it stays loaded."""
    monkeypatch.chdir(tmp_path)
    # What other tests of this process imported, and where from, is as if it had never been.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in import_user_function._import_folders])
    monkeypatch.setattr(import_user_function, "_import_folders", [])
    before = set(sys.modules)

    def write(**files):
        for name, content in files.items():
            path = tmp_path / f"{name.replace('__of__', '/')}.py"
            top = name.partition("__of__")[0]
            if top in before:
                monkeypatch.delitem(sys.modules, top, raising=False)
                before.discard(top)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        spec = loaded_spec(name)
        if spec is not None and str(tmp_path) in f"{spec.origin} {spec.submodule_search_locations}":
            del sys.modules[name]
