"""Hides installed packages from imports, as if they were not installed: what a base installation is, in the environment of the tests."""

from __future__ import annotations

import sys


class _Finder:
    def __init__(self, finder, hidden):
        self._finder, self._hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self._hidden else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


def hide(packages):
    """Let no import of these packages succeed from now on."""
    sys.meta_path[:] = [_Finder(finder, frozenset(packages)) for finder in sys.meta_path]
