"""What counts of the code around a function that was given as such."""

from __future__ import annotations

import importlib

import pytest

from bnkit.errors import FactoryError
from bnkit.experiments.code_fingerprint import fingerprint_of
from bnkit.experiments.function_dependencies import references_of
from bnkit.import_user_function import load_factory
from tests.user_project import a_project  # noqa: F401 - the fixture

_BLOCKS = "H = 16\nclass Config:\n    width = 16\ndef hidden(n=16):\n    return n\n"
_CHANGED = _BLOCKS.replace("16", "32")
_MAKE = "def make():\n    return {}\n"

# A script, what is changed in it or in blocks.py, and whether that makes other code of make().
_CASES = {
    "a function of its module": ("def width():\n    return 16\n" + _MAKE.format("width()"), ("16", "32"), True),
    "through two of them": (
        "W = 16\ndef inner():\n    return W\ndef width():\n    return inner()\n" + _MAKE.format("width()"), ("16", "32"), True,
    ),
    "a value of its module": ("W = 16\n" + _MAKE.format("W"), ("16", "32"), True),
    "a list of its module": ("W = [16, 8]\n" + _MAKE.format("W"), ("16", "32"), True),
    "a dictionary of its module": ("W = {'a': {'b': 16}}\n" + _MAKE.format("W"), ("16", "32"), True),
    "a tensor of its module": ("import torch\nW = torch.tensor([16])\n" + _MAKE.format("W"), ("16", "32"), True),
    "an array of its module": ("import numpy as np\nW = np.array([16])\n" + _MAKE.format("W"), ("16", "32"), True),
    "what argparse read": (
        "from argparse import Namespace\nW = Namespace(width=16)\n" + _MAKE.format("W.width"), ("16", "32"), True,
    ),
    "a class of its module": ("class Net:\n    def go(self):\n        return 16\n" + _MAKE.format("Net()"), ("16", "32"), True),
    "a base of a class": (
        "class Base:\n    def go(self):\n        return 16\nclass Net(Base):\n    pass\n" + _MAKE.format("Net()"), ("16", "32"), True,
    ),
    "what a method uses": (
        "W = 16\nclass Net:\n    def go(self):\n        return W\n" + _MAKE.format("Net()"), ("16", "32"), True,
    ),
    "a class given": ("W = 16\nclass make:\n    def __init__(self):\n        self.width = W\n", ("16", "32"), True),
    "a function behind a decorator": (
        "import functools\ndef twice(f):\n    @functools.wraps(f)\n    def inner():\n        return 16 * f()\n    return inner\n@twice\ndef make():\n    return 1\n",
        ("16", "32"), True,
    ),
    "a closure over a list": ("def outer(w):\n    return lambda: w\nmake = outer([16])\n", ("[16", "[32"), True),
    "a closure over a function": ("def outer(w):\n    return lambda: w()\nmake = outer(lambda: 16)\n", ("16", "32"), True),
    "a partial of a function": (
        "from functools import partial\nW = 16\ndef net(d):\n    return W\nmake = partial(net, 3)\n", ("16", "32"), True,
    ),
    "a method of an object": (
        "class Maker:\n    def __init__(self, w):\n        self.w = w\n    def make(self):\n        return self.w\nmake = Maker([16]).make\n",
        ("16", "32"), True,
    ),
    "an object of a library": (
        "from sklearn.preprocessing import Binarizer\nW = Binarizer(threshold=16)\n" + _MAKE.format("W"), ("16", "32"), True,
    ),
    "another function of a library by the same name": (
        "from math import sin as act\n" + _MAKE.format("act(1)"), ("sin as", "cos as"), True,
    ),
    "a keyword's default": ("W = 16\ndef make(*, width=W):\n    return width\n", ("16", "32"), True),
    "what it does not use": ("W = 16\n" + _MAKE.format("3"), ("16", "32"), False),
    "a call below it": (_MAKE.format("3") + "if __name__ == '__main__':\n    compare(make, seeds=16)\n", ("16", "32"), False),
    "a list that it fills": ("L = [16]\ndef make():\n    L.append(1)\n    return 3\n", ("16", "32"), False),
    "a counter": ("n = 16\ndef make():\n    global n\n    n += 1\n    return 3\n", ("16", "32"), False),
    "a logger": ("import logging\nlog = logging.getLogger('16')\n" + _MAKE.format("log"), ("16", "32"), False),
}  # fmt: skip
_IMPORTING = {
    "a module": "import blocks\n" + _MAKE.format("blocks.hidden()"),
    "a function of a module": "from blocks import hidden\n" + _MAKE.format("hidden()"),
    "a value of a module": "from blocks import H\n" + _MAKE.format("H"),
    "a class of a module": "from blocks import Config\n" + _MAKE.format("Config()"),
    "a base in a module": "from blocks import Config\nclass Net(Config):\n    pass\n" + _MAKE.format("Net()"),
    "inside": "def make():\n    import blocks\n    return blocks.H\n",
    "from it inside": "def make():\n    from blocks import H\n    return H\n",
    "by a string": "from importlib import import_module\n" + _MAKE.format("import_module('blocks').H"),
    "inside a function of a library": "from functools import partial\nfrom blocks import hidden\nmake = partial(hidden, 3)\n",
}


@pytest.mark.parametrize(("source", "change", "counts"), _CASES.values(), ids=_CASES)
def test_what_is_used_counts_and_what_is_not_does_not(project, source, change, counts):
    project(script=source)
    first = [fingerprint_of(load_factory("script.py:make").value) for _ in range(2)]
    assert first[0] == first[1]
    assert source.count(change[0]) == 1
    project(script=source.replace(*change))
    assert (fingerprint_of(load_factory("script.py:make").value) != first[0]) is counts


@pytest.mark.parametrize("source", _IMPORTING.values(), ids=_IMPORTING)
def test_modules_of_ones_own_count_as_a_whole(project, source):
    project(script=source, blocks=_BLOCKS)
    first = fingerprint_of(load_factory("script.py:make").value)
    project(blocks=_CHANGED)
    changed = fingerprint_of(load_factory("script.py:make").value)
    assert changed != first
    project(blocks=_BLOCKS)
    assert fingerprint_of(load_factory("script.py:make").value) == first


def test_a_module_that_changed_after_it_was_loaded_is_refused(project):
    project(net="import blocks\n" + _MAKE.format("blocks.H"), blocks=_BLOCKS)
    net = load_factory("net:make").value
    fingerprint_of(net)
    project(blocks=_CHANGED)
    with pytest.raises(FactoryError, match=r"blocks.py was changed after this process imported it, .*importlib.reload"):
        fingerprint_of(net)
    importlib.reload(importlib.import_module("blocks"))
    assert fingerprint_of(net) == fingerprint_of(load_factory("net:make").value)


def test_what_stands_alone_refers_to_nothing():
    assert references_of(_MAKE.format) == ()
    assert references_of(load_factory) == ()  # bnkit is not a module of the user's own


_CALL = "def compare(networks, seeds):\n    return networks\n{}\nmake = found['{}']\n"


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_of_a_lambda_the_call_around_it_does_not_count(project, which):
    call = "found = compare({{'a': lambda: (1, lambda: 2), 'b': lambda:\n    3, 'c': (lambda x=1: x)}}, seeds={})"
    identities = {}
    for name, seeds, change in (
        ("before", 2, ("", "")),
        ("more seeds", 5, ("", "")),
        ("other code", 2, ("2), 'b'", "4), 'b'")),
    ):
        project(script=_CALL.format(call.format(seeds).replace(*change) if change[0] else call.format(seeds), which))
        identities[name] = fingerprint_of(load_factory("script.py:make").value)
    assert identities["before"] == identities["more seeds"]
    assert (identities["before"] != identities["other code"]) is (which == "a")
