from __future__ import annotations

import ctypes
import platform
import sys

import pytest

from bnkit.memory import keep_freed_memory
from tests.child_processes import run

_FAULTS = """
import resource, torch, bnkit
if {keep}: assert bnkit.keep_freed_memory()
def step(): return torch.ones(16 << 20).sum()
for _ in range(20): step()  # until the heap holds as many blocks as are in use at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library cannot keep freed memory")
def test_blocks_of_64_mb_are_not_faulted_in_again():
    faults = {keep: int(run([sys.executable, "-c", _FAULTS.format(keep=keep)]).stdout) for keep in (False, True)}
    assert faults[False] >= 5 * (64 << 20) // 4096 * 9 // 10, faults  # each of the 64 MB, in pages of 4 KiB
    assert faults[True] <= faults[False] / 4, faults


def test_no_effect_and_no_error_elsewhere(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert keep_freed_memory() is False


def test_no_effect_and_no_error_where_mallopt_is_missing(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False
