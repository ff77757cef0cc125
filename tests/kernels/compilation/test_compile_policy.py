from __future__ import annotations

import re

import pytest
import torch

import bnkit
from bnkit.errors import SettingsError
from bnkit.kernels import select
from bnkit.kernels.compilation import background, compile_policy, compiled_loops
from bnkit.kernels.compilation.compile_request import CompileRequest

REQUEST = CompileRequest("layer", (64, 16, 32, 32), "float32", True, "relu")


@pytest.fixture(autouse=True)
def _fresh_process(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "loops"))
    monkeypatch.setattr(compile_policy, "_answers", {})
    monkeypatch.setattr(background, "start", lambda: True)


def _auto(activation="relu"):
    return select("auto", torch.empty(64, 16, 32, 32), activation)


@pytest.mark.parametrize(
    ("mode", "expected", "asked"),
    [
        (None, "aten: .* are being compiled in the background, for the next process", 1),
        ("background", "aten: .* are being compiled in the background, for the next process", 1),
        ("off", "aten: .* are not compiled; `bnkit warm-up` compiles them", 0),
        ("now", "numba: fewer passes", 0),
    ],
)
def test_auto_waits_for_no_compiler_unless_it_is_told_to(mode, expected, asked, monkeypatch):
    monkeypatch.delenv(compile_policy.VARIABLE) if mode is None else monkeypatch.setenv(compile_policy.VARIABLE, mode)
    choice = str(_auto())
    assert re.match(expected, choice), choice
    assert len(compiled_loops.requests()) == asked


@pytest.mark.parametrize("mode", ["background", "off"])
def test_auto_takes_what_is_compiled(mode, tmp_path, monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, mode)
    compiled_loops.note(REQUEST.name, tmp_path)
    assert _auto().kernel.NAME == "numba"
    assert _auto("silu").kernel.NAME == "aten"  # has loops of its own


def test_what_was_chosen_holds_for_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, "off")
    before = _auto()
    compiled_loops.note(REQUEST.name, tmp_path)
    assert _auto() == before


def test_loops_that_do_not_compile_are_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, "background")
    compiled_loops.note(REQUEST.name, tmp_path, "LoweringError: no such instruction")
    assert "cannot be compiled here (LoweringError: no such instruction)" in _auto().reason
    assert compiled_loops.requests() == []


def test_where_no_process_can_be_started_the_reason_says_what_to_do(monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, "background")
    monkeypatch.setattr(background, "start", lambda: False)
    assert _auto().reason.endswith("are not compiled; `bnkit warm-up` compiles them")


def test_without_numba_everything_is_pytorchs_and_the_reason_names_the_extra(monkeypatch):
    monkeypatch.setattr(compiled_loops, "is_numba_installed", lambda: False)
    choice = _auto()
    assert (choice.kernel.NAME, "pip install 'bnkit[fast]'" in choice.reason) == ("aten", True)


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, "always")
    with pytest.raises(SettingsError, match="BNKIT_COMPILE is 'always'; expected one of background, off, now"):
        _auto()


def test_a_run_of_an_experiment_does_not_depend_on_what_is_compiled(monkeypatch):
    monkeypatch.setenv(compile_policy.VARIABLE, "off")
    layer, x = bnkit.nn.BatchNorm2d(16), torch.randn(64, 16, 32, 32)
    kernels = []
    for name in ("numba", "aten"):
        kernel = select(name, x).kernel
        step = kernel.training_step
        monkeypatch.setattr(
            kernel, "training_step", lambda *args, _step=step, _name=name: kernels.append(_name) or _step(*args)
        )
    layer(x)
    with compile_policy.compiling_at_once():
        layer(x)
    layer(x)
    assert kernels == ["aten", "numba", "aten"]
