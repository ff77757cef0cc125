from __future__ import annotations

import subprocess

import pytest

from bnkit.kernels.compilation import background, compiled_loops


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "loops"))
    compiled_loops.folder().mkdir(parents=True)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append((command, options)))
    return commands


def test_it_starts_a_process_of_low_priority_that_has_no_parent_to_wait_for_it(started):
    assert background.start()
    (command, options), *rest = started
    assert rest == []
    assert command[:3] == ["/bin/sh", "-c", 'nice -n 19 "$@" &']
    assert command[4:] == background.command()
    assert options["start_new_session"]


def test_where_one_is_at_work_no_other_is_started(started):
    with background.lock():
        assert background.start()
    assert started == []


def test_a_process_that_cannot_be_started_is_no_error(started, monkeypatch):
    def refused(*args, **options):
        raise OSError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", refused)
    assert not background.start()


def test_without_a_folder_nothing_is_started(started, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert not background.start()
    assert started == []


def test_several_layers_that_ask_at_once_start_one_process(started, monkeypatch):
    assert [background.start() for _ in range(3)] == [True, True, True]
    assert len(started) == 1
    monkeypatch.setattr(background, "_SECONDS_TO_START", 0)  # it may have died
    assert background.start()
    assert len(started) == 2
