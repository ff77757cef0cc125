"""What a factory's digest covers, and that it runs the code that is on disk."""

from __future__ import annotations

import hashlib
import importlib
import sys

import pytest

from bnkit.errors import FactoryError
from bnkit.import_user_function import load_factory, refuse_clashes, what_it_is
from tests.user_project import a_project  # noqa: F401 - the fixture

_BLOCKS = "H = 16\ndef hidden():\n    return H\n"

# Files, with the blocks that make() takes its width from, and how the factory is named.
_WAYS = {
    "import": ({"net": "import blocks\ndef make():\n    return blocks.H\n"}, "net.py:make"),
    "from": ({"net": "from blocks import H\ndef make():\n    return H\n"}, "net.py:make"),
    "as a module": ({"net": "from blocks import H\ndef make():\n    return H\n"}, "net:make"),
    "inside the function": ({"net": "def make():\n    from blocks import H\n    return H\n"}, "net.py:make"),
    "behind another": (
        {"net": "import middle\ndef make():\n    return middle.width()\n", "middle": "import blocks\ndef width():\n    return blocks.hidden()\n"},
        "net.py:make",
    ),
    "by a string": (
        {"net": "import importlib\ndef make():\n    return importlib.import_module('blocks').H\n"}, "net.py:make",
    ),
    "by a computed string": (
        {"net": "import importlib\ndef make(name='bl'):\n    return importlib.import_module(name + 'ocks').H\n"}, "net.py:make",
    ),
    "run as a file": (
        {"net": "import runpy\ndef make():\n    return runpy.run_path('blocks.py')['H']\n"}, "net.py:make",
    ),
    "everything": ({"net": "from blocks import *\ndef make():\n    return H\n"}, "net.py:make"),
    "the factory itself": ({"net": "from blocks import hidden as make\n"}, "net.py:make"),
}  # fmt: skip
_PACKAGE = {"pkg__of____init__": "", "pkg__of__net": "from .blocks import H\ndef make():\n    return H\n"}
_PACKAGED = {
    "relative": (_PACKAGE, "pkg.net:make"),
    "relative in a file": (_PACKAGE, "pkg/net.py:make"),
    "a module of the package": (
        {**_PACKAGE, "pkg__of__net": "from . import blocks\ndef make():\n    return blocks.H\n"}, "pkg.net:make",
    ),
    "by the package": (
        {"pkg__of____init__": "from .blocks import H\n", "net": "import pkg\ndef make():\n    return pkg.H\n"}, "net.py:make",
    ),
    "of a namespace": ({"net": "import pkg.blocks as b\ndef make():\n    return b.H\n"}, "net.py:make"),
    "computed in a package": (
        {"pkg__of____init__": "", "net": "import importlib\ndef make(n='blocks'):\n    return importlib.import_module(f'pkg.{n}').H\n"},
        "net.py:make",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "name", "blocks"),
    [
        *((*way, "blocks") for way in _WAYS.values()),
        *((*way, "pkg__of__blocks") for way in _PACKAGED.values()),
    ],
    ids=[*_WAYS, *_PACKAGED],
)
def test_a_changed_module_is_imported_again_and_changes_the_digest(project, files, name, blocks):
    project(**files, **{blocks: _BLOCKS})
    first, again = load_factory(name), load_factory(name)
    assert first.digest == again.digest
    assert first.value() == again.value() == 16
    # As many bytes, within the same second: Python itself would take its compiled code for current.
    project(**{blocks: _BLOCKS.replace("16", "32")})
    changed = load_factory(name)
    assert changed.digest != first.digest
    assert changed.value() == 32
    project(**{blocks: _BLOCKS})
    assert (load_factory(name).digest, load_factory(name).value()) == (first.digest, 16)


def test_a_file_that_imports_nothing_of_ones_own_has_the_digest_of_the_file(project):
    source = "import json\nimport torch\nimport bnkit\ndef make():\n    return 3\n"
    project(net=source, unrelated="x = 1\n")
    assert (
        load_factory("net.py:make").digest
        == hashlib.sha256(source.encode()).hexdigest()
        == load_factory("net:make").digest
    )


def test_what_is_not_imported_does_not_count(project):
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import blocks\ndef make():\n    return 3\n"
    project(net=source, blocks=_BLOCKS)
    before = load_factory("net.py:make").digest
    project(blocks="changed\n")
    assert load_factory("net.py:make").digest == before


def test_modules_that_did_not_change_stay_loaded(project):
    project(
        net="import blocks, other\ndef make():\n    return blocks.H, other\n", blocks=_BLOCKS, other="register = []\n"
    )
    other = load_factory("net.py:make").value()[1]
    project(blocks=_BLOCKS.replace("16", "128"))
    assert load_factory("net.py:make").value() == (128, other)


def test_a_module_that_was_imported_before_its_file_changed(project, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    project(net="import blocks\ndef make():\n    return blocks.H\n", blocks=_BLOCKS)
    sys.path.append(".")
    assert importlib.import_module("blocks").H == 16
    project(blocks=_BLOCKS.replace("16", "128"))
    assert load_factory("net.py:make").value() == 128


def test_two_modules_of_one_name_are_not_taken_for_each_other(project):
    for folder, width in (("one", 1), ("two", 2)):
        project(**{
            f"{folder}__of__net": "import blocks\ndef make():\n    return blocks.H\n", f"{folder}__of__blocks": f"H = {width}\n",
        })  # fmt: skip
    assert [load_factory(f"{folder}/net.py:make").value() for folder in ("one", "two", "one")] == [1, 2, 1]
    with pytest.raises(FactoryError, match=r"one/net.py:make imports blocks from .*, and two/net.py:make imports it"):
        refuse_clashes(["one/net.py:make", "two/net.py:make"])


def test_a_module_of_another_folder_does_not_stand_in_for_one_beside_the_file(project, monkeypatch):
    project(
        blocks="H = 1\n", sub__of__net="import blocks\ndef make():\n    return blocks.H\n", sub__of__blocks="H = 2\n"
    )
    monkeypatch.syspath_prepend(".")
    with pytest.raises(FactoryError, match=r"sub/net.py is next to blocks.py, but its import of blocks finds "):
        load_factory("sub/net.py:make")


@pytest.mark.parametrize(("name", "is_address"), [("https://example.org/net.py", True), ("C:/nets/net.py", False)])
def test_an_address_is_told_from_a_path_of_windows(name, is_address):
    assert ("address" in what_it_is(name)) == is_address
