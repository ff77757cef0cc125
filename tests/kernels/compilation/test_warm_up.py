"""With real processes and compilers; each compiles a loop that takes little time."""

from __future__ import annotations

import json
import sys

import pytest

from bnkit.errors import KernelError
from bnkit.kernels.compilation import background, compiled_loops, warm_up
from bnkit.kernels.compilation.compile_request import CompileRequest
from tests.child_processes import run

ASK = """
import sys, torch
from bnkit.kernels import select
print(select("auto", torch.empty(8, 4, 64, 64), purpose="moments").kernel.NAME, "numba" in sys.modules)
"""


@pytest.mark.slow
def test_a_first_process_waits_for_nothing_and_the_next_one_has_the_loops(tmp_path):
    """The first one has the loops compiled, which is done here in its place, in the foreground."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "BNKIT_COMPILE": "off"}
    ask = [sys.executable, "-c", ASK]
    assert run(ask, environment=environment).stdout.split() == ["aten", "False"]
    asked = ASK.replace(
        "import sys", "import bnkit.kernels.compilation.background as b; b.start = lambda: True; import sys"
    )
    run([sys.executable, "-c", asked], environment={**environment, "BNKIT_COMPILE": "background"})
    assert len(list(tmp_path.rglob("*.requested"))) == 1
    done = run(background.command(), environment=environment, seconds=300)
    assert (done.returncode, done.stderr) == (0, "")
    (noted,) = tmp_path.rglob("*.compiled")
    assert json.loads(noted.read_text())["error"] == ""
    assert list(tmp_path.rglob("*.requested")) == []
    assert run(ask, environment=environment).stdout.split() == ["numba", "True"]


def test_what_was_not_compiled_is_not_proved(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    request = CompileRequest("moments", (8, 4, 64, 64), "float32")
    monkeypatch.setattr(warm_up, "_compile", lambda request: "LoweringError: no")
    assert warm_up.warm_up([request]) == [(request, "LoweringError: no")]
    assert compiled_loops.state_of(request.name) == "LoweringError: no"
    monkeypatch.setattr(warm_up, "_compile", lambda request: "")
    monkeypatch.setattr(warm_up, "prove", lambda requests: {})
    assert warm_up.warm_up([request])[0].error.startswith("the loops that Numba compiled are not in its cache")


def test_what_is_on_disk_is_not_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    request = CompileRequest("moments", (8, 4, 64, 64), "float32")
    compiled_loops.note(request.name, tmp_path)
    monkeypatch.setattr(warm_up, "_compile", lambda request: pytest.fail("compiled"))
    seen = []
    assert warm_up.warm_up([request], seen.append) == [(request, "")]
    assert seen == [request]


def test_the_usual_requests_differ_and_more_of_them_can_be_had():
    usual, all_of_them = (warm_up.usual_requests(everything=on) for on in (False, True))
    names = [request.name for request in usual]
    assert len(set(names)) == len(names) > 20
    assert {request.name for request in all_of_them} > set(names)


def test_without_numba_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compiled_loops, "is_numba_installed", lambda: False)
    for call in (lambda: warm_up.warm_up([]), warm_up.wanted_requests):
        with pytest.raises(KernelError, match=r"pip install 'bnkit\[fast\]'"):
            call()


def test_where_nothing_can_be_written_it_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(warm_up, "_compile", lambda request: "no")
    with pytest.raises(KernelError, match="cannot write to .*; set NUMBA_CACHE_DIR to a folder of yours"):
        warm_up.warm_up([CompileRequest("moments", (8, 4, 64, 64), "float32")])
