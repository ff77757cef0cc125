"""Files of a user's in a results folder stay as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import bnkit
from bnkit.errors import RecordError, SettingsError
from bnkit.experiments.records.overwrite_protection import MARKER, mark, refuse_foreign, refuse_foreign_page
from bnkit.experiments.records.results_folder import ResultsFolder
from tests.experiments import tiny_experiment

_FILES = ("experiment.toml", "results.csv", "report.html", "runs/notes.txt")


def _compare(folder, **changes):
    return bnkit.compare(
        tiny_experiment.NETWORKS,
        tiny_experiment.data(),
        out=folder,
        **{**tiny_experiment.EXPERIMENT, "epochs": 1, **changes},
    )


def _put(folder: Path, name: str, content: str = "mine\n") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def _everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return _compare(tmp_path_factory.mktemp("whole") / "r").folder.path


@pytest.mark.parametrize("fresh", [False, True], ids=["", "fresh"])
@pytest.mark.parametrize("name", [*_FILES, ".lock", ".bnkit"])
def test_a_users_file_is_refused_before_anything_is_trained(tmp_path, name, fresh):
    _put(tmp_path, name)
    before = _everything(tmp_path)
    with pytest.raises(RecordError, match=f"holds {name.partition('/')[0]}, which was not written by bnkit"):
        _compare(tmp_path, fresh=fresh)
    assert _everything(tmp_path) == before


def test_all_of_them_are_named_at_once(tmp_path):
    for name in _FILES:
        _put(tmp_path, name)
    with pytest.raises(
        RecordError, match=r"holds experiment.toml and results.csv and report.html and runs, which were not"
    ):
        _compare(tmp_path)


def test_an_experiment_file_of_the_users_is_no_results_folder(tmp_path):
    content = 'name = "mine"\nnetworks = ["mlp"]\nseeds = 1\nepochs = 1\n[grid]\nlr = 0.1\n'
    _put(tmp_path, "experiment.toml", content)
    with pytest.raises(RecordError, match=r"holds experiment.toml, which was not written by bnkit"):
        _compare(tmp_path)
    with pytest.raises(RecordError, match="was not written by a comparison"):
        bnkit.Comparison(tmp_path)


@pytest.mark.slow
def test_tensorboards_folder_is_the_users_where_bnkit_did_not_make_it(tmp_path):
    mine = _put(tmp_path, "tensorboard/events")
    _compare(tmp_path)  # it is not touched
    with pytest.raises(RecordError, match="holds tensorboard, which was not written by bnkit"):
        _compare(tmp_path, tensorboard=True)
    assert mine.read_text() == "mine\n"


@pytest.mark.slow
def test_other_files_are_left_alone_by_fresh_too(compared, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "r")
    run = next((folder / "runs").iterdir())
    mine = [_put(folder, "notes.md"), _put(folder, "runs/notes.md"), _put(run, "notes.md")]
    _compare(folder, fresh=True, seeds=1)
    assert [path.read_text() for path in mine] == ["mine\n"] * 3
    assert len([path for path in (folder / "runs").iterdir() if (path / "record.jsonl").exists()]) == 4


@pytest.mark.parametrize("without", [(), ("experiment.toml",), ("results.csv", "report.html"), ("runs",)], ids=str)
def test_a_folder_of_an_earlier_version_has_no_marker_and_goes_on(compared, tmp_path, without):
    folder = shutil.copytree(compared, tmp_path / "r")
    (folder / MARKER).unlink()
    for name in without:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.unlink()
    ResultsFolder(folder).refuse_foreign()
    with ResultsFolder(folder).writing():
        pass
    assert json.loads((folder / MARKER).read_text())["written"] == [
        "experiment.toml", "results.csv", "report.html", "runs", ".lock", "tensorboard", "wandb", "mlflow",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", '{"written": 3}', "\x00"])
def test_a_damaged_marker_is_made_again(compared, tmp_path, content):
    folder = shutil.copytree(compared, tmp_path / "r")
    (folder / MARKER).write_text(content)
    with ResultsFolder(folder).writing():
        pass
    assert "results.csv" in json.loads((folder / MARKER).read_text())["written"]


def test_what_the_marker_does_not_name_is_the_users(tmp_path):
    mark(tmp_path, ["a"])
    _put(tmp_path, "b")
    mark(tmp_path, ["b", "c"])  # b is the user's, c is not there yet
    refuse_foreign(tmp_path, ["a", "c"])
    with pytest.raises(RecordError, match="holds b, which"):
        refuse_foreign(tmp_path, ["a", "b", "c"])


def test_a_link_is_a_users_file_also_where_it_leads_nowhere(tmp_path):
    (tmp_path / "results.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(RecordError, match="holds results.csv"):
        _compare(tmp_path)


def test_a_report_is_not_written_over_a_users(compared, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "r")
    (folder / MARKER).write_text(json.dumps({"written": ["experiment.toml", "results.csv", "runs"]}))
    (folder / "report.html").write_text("mine")
    with pytest.raises(RecordError, match="holds report.html"):
        bnkit.Comparison(folder).write_report()
    assert (folder / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [
        ("<!doctype html>\n<title>small – bnkit</title>", True),
        ("<title>mine</title>", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_a_page_is_told_by_its_title(tmp_path, content, is_ours):
    path = tmp_path / "page.html"
    refuse_foreign_page(path)  # it is not there
    path.write_text(content, encoding="utf-8" if is_ours else "latin-1")
    if is_ours:
        refuse_foreign_page(path)
    else:
        with pytest.raises(RecordError, match="is not a report of bnkit's"):
            refuse_foreign_page(path)


def test_a_folder_that_is_a_file(tmp_path):
    _put(tmp_path, "r")
    with pytest.raises(RecordError, match="it is a file; expected a folder"):
        _compare(tmp_path / "r")


@pytest.mark.parametrize("out", ["", " "])
def test_no_folder_is_not_the_working_directory(out):
    with pytest.raises(SettingsError, match="out is empty"):
        _compare(out)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ResultsFolder(Path("~/r")).path == tmp_path / "r"
