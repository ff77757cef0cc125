"""A thousand broken experiment files and command lines: status 2 and one line, never a traceback, never a lost record."""

from __future__ import annotations

import math

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import experiment_from, read_experiment
from bnkit.experiments.settings import Settings
from tests.cli.calls import QUICK, SMALL, say

pytestmark = pytest.mark.slow

_VALID = {
    "name": "valid",
    "data": f"{SMALL}:data",
    "networks": [f"{SMALL}:networks"],
    "seeds": 1,
    "epochs": 1,
    "validation": 0.2,
    "grid": {"lr": [0.1], "batch_size": [16]},
}
_KEYS = [*_VALID, "about", "arms", "drop_last", "threads", "show", "settled"]
_SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.sampled_from(["", "lenet", "digits", "auto", "../../x", "a b", "\n", "[bold]", "x" * 200, "cuda:99", "épreuve"]),
)
_VALUES = st.one_of(
    _SCALARS, st.lists(_SCALARS, max_size=3), st.dictionaries(st.text(max_size=5), _SCALARS, max_size=2)
)
_CHANGES = st.dictionaries(st.one_of(st.sampled_from(_KEYS), st.text(max_size=8)), _VALUES, min_size=1, max_size=3)
_GRIDS = st.dictionaries(
    st.one_of(st.sampled_from(list(Settings.model_fields)), st.text(max_size=8)), _VALUES, max_size=3
)


def _examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def _is_small(content):
    """Valid by chance is fine, but not with a million epochs, threads or seeds: a dry run lists them all."""
    seeds, epochs = content.get("seeds", 1), content.get("epochs", 1)
    grid = content.get("grid")
    sizes = [value for value in (grid.values() if isinstance(grid, dict) else ()) if isinstance(value, (int, float))]
    flat = [v for value in (grid.values() if isinstance(grid, dict) else ()) if isinstance(value, list) for v in value]
    numbers = [seeds, epochs, content.get("threads", 1), *sizes, *flat]
    return all(
        isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) or n < 1000 for n in numbers
    )


def _right_or_one_line(said):
    assert said.status in (0, 2), said
    if said.status == 2:
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err


@_examples(300)
@given(changes=_CHANGES, grid=st.none() | _GRIDS, without=st.sets(st.sampled_from(list(_VALID)), max_size=1))
def test_broken_experiments(capsys, tmp_path, changes, grid, without):
    content = {key: value for key, value in {**_VALID, **changes}.items() if key not in without}
    if grid is not None:
        content["grid"] = grid
    if not _is_small(content):
        return
    path = tmp_path / "broken.toml"
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    _right_or_one_line(say(capsys, "compare", str(path), "--dry-run"))


@_examples(400)
@given(
    content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
)
def test_files_that_are_no_toml(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        experiment_from(read_experiment(path), str(path))
    assert "\n" not in str(caught.value)


_WORDS = st.one_of(
    st.sampled_from(
        ["compare", "report", "data", "quickstart", "digits", "--grid", "--seeds", "--epochs", "--network", "--data", "--json",
         "-q", "--out", "--batch-size", "--device", "lr=", "lr=0.1", "=", "lr=a,,b", "0", "-1", "1e9", "nets.py:", ":x", "--"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10),
)  # fmt: skip


@_examples(300)
@given(words=st.lists(_WORDS, max_size=5))
def test_broken_command_lines(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    said = say(capsys, "compare", "--dry-run", *words)
    # --help and --version may be among them
    if "-h" not in "".join(words) and "--version" not in words:
        _right_or_one_line(said)
    assert list(tmp_path.iterdir()) == []


def test_what_was_recorded_outlives_them_all(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    say(capsys, "compare", *QUICK, "--out", "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    for wrong in (["--grid", "lr=nan"], ["--seeds", "-3"], ["--epochs", "1e3"], ["--data", "nowhere.npz"], ["--network", "nets.py:"],
                  ["--device", "cuda:99"], ["--grid", "depth=3"], ["--fresh", "--grid", "optimizer=sgdd"]):  # fmt: skip
        said = say(capsys, "compare", *QUICK, "--out", "r", *wrong)
        assert said.status == 2, wrong
        _right_or_one_line(said)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before
