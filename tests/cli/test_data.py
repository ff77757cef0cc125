from __future__ import annotations

import json

import pytest

from tests.cli.cli_runner import invoke


def test_it_lists_what_is_there_and_what_is_not_and_where(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BNKIT_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    broken = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    broken.write_bytes(b"half of it")
    listed = {entry["name"]: entry for entry in json.loads(invoke(capsys, "data", "--json").out)}
    assert listed["digits"]["state"] == "there"
    assert (listed["fashion-mnist"]["state"], len(listed["fashion-mnist"]["missing"])) == ("missing", 4)
    assert (listed["mnist"]["state"], listed["mnist"]["broken"]) == ("broken", [str(broken)])
    text = invoke(capsys, "data").out
    assert f"broken: {broken}: its SHA-256 is not the published one; delete it and fetch it again" in text
    assert str(tmp_path / "fashion-mnist") in text


def test_only_those_that_are_named(capsys):
    assert [entry["name"] for entry in json.loads(invoke(capsys, "data", "mnist", "--json").out)] == ["mnist"]


def test_fetching_what_is_part_of_bnkit_needs_nothing(capsys):
    assert invoke(capsys, "data", "digits", "--fetch").status == 0


@pytest.mark.parametrize("name", ["../../etc", "MNIST", ""])
def test_a_name_is_no_path(capsys, name):
    result = invoke(capsys, "data", name, "--fetch")
    assert result.status == 2
    assert "unknown data set" in result.err
