from __future__ import annotations

import pytest

from bnkit.kernels.compilation import compiled_loops
from bnkit.kernels.compilation.compile_request import CompileRequest

REQUEST = CompileRequest("layer", (64, 16, 32, 32), "float32", True, "relu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "loops"))


def test_nothing_is_known_at_first():
    assert compiled_loops.state_of(REQUEST.name) is None
    assert compiled_loops.requests() == []


def test_what_was_asked_for_waits_until_it_is_noted(tmp_path):
    assert compiled_loops.ask_for(REQUEST)
    assert compiled_loops.requests() == [REQUEST.smallest]
    compiled_loops.note(REQUEST.name, tmp_path)
    assert compiled_loops.state_of(REQUEST.name) == ""
    assert compiled_loops.requests() == []


def test_an_error_is_kept_and_not_tried_again(tmp_path):
    compiled_loops.ask_for(REQUEST)
    compiled_loops.note(REQUEST.name, tmp_path, "LoweringError: no")
    assert compiled_loops.state_of(REQUEST.name) == "LoweringError: no"
    assert compiled_loops.requests() == []


def test_loops_whose_folder_was_deleted_are_not_there(tmp_path):
    compiled_loops.note(REQUEST.name, tmp_path / "deleted")
    assert compiled_loops.state_of(REQUEST.name) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"error": ""}', '{"shape": [1, 2]}'])
def test_a_broken_file_counts_as_none(text):
    folder = compiled_loops.folder()
    folder.mkdir(parents=True)
    (folder / f"{REQUEST.name}.compiled").write_text(text)
    (folder / f"{REQUEST.name}.requested").write_text(text)
    assert compiled_loops.state_of(REQUEST.name) is None
    assert compiled_loops.requests() == []
    assert not (folder / f"{REQUEST.name}.requested").exists()


def test_a_request_under_another_name_is_dropped():
    compiled_loops.ask_for(REQUEST)
    file = compiled_loops.folder() / f"{REQUEST.name}.requested"
    file.rename(file.with_name("layer-other.requested"))
    assert compiled_loops.requests() == []


def test_where_nothing_can_be_written_nothing_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert not compiled_loops.ask_for(REQUEST)


def test_another_version_of_numba_has_a_folder_of_its_own(monkeypatch):
    before = compiled_loops.folder()
    compiled_loops._key.cache_clear()
    monkeypatch.setattr(compiled_loops.metadata, "version", lambda name: "0.0")
    assert compiled_loops.folder() != before
    compiled_loops._key.cache_clear()
