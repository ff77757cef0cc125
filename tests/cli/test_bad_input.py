"""Two thousand broken experiment files and command lines: status 2 and one line, never a traceback, never a lost record."""

from __future__ import annotations

import math

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bnkit.checks.config import load_config
from bnkit.errors import SettingsError
from bnkit.experiments.experiment import parse_experiment, read_experiment
from bnkit.experiments.run_settings import Settings
from tests.cli import user_networks
from tests.cli.cli_runner import QUICK_COMPARE, TINY_EXPERIMENT, invoke
from tests.random_examples import examples

pytestmark = pytest.mark.slow
NETS = user_networks.__file__

_VALID = {
    "name": "valid",
    "data": f"{TINY_EXPERIMENT}:data",
    "networks": [f"{TINY_EXPERIMENT}:networks"],
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
        max_examples=examples(count),
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


def _right_or_one_line(result):
    assert result.status in (0, 2), result
    if result.status == 2:
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        assert "Traceback" not in result.err


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
    _right_or_one_line(invoke(capsys, "compare", str(path), "--dry-run"))


@_examples(400)
@given(
    content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
)
def test_files_that_are_no_toml(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        parse_experiment(read_experiment(path), str(path))
    assert "\n" not in str(caught.value)


_WORDS = st.one_of(
    st.sampled_from(
        ["compare", "report", "data", "fold", "add", "--input", "2x1x8x8", "--to", "--weights", "--preserve", f"{NETS}:plain", "quickstart", "digits", "--grid", "--seeds", "--epochs", "--network", "--data", "--json",
         "-q", "--out", "--batch-size", "--device", "lr=", "lr=0.1", "=", "lr=a,,b", "0", "-1", "1e9", "nets.py:", ":x", "--"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10),
)  # fmt: skip


def _without_work(capsys, folder, command, words):
    result = invoke(capsys, *command, *words)
    # --help and --version may be among them
    if "-h" not in "".join(words) and "--version" not in words:
        _right_or_one_line(result)
    assert list(folder.iterdir()) == []


@_examples(300)
@given(words=st.lists(_WORDS, max_size=5))
def test_broken_command_lines(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    _without_work(capsys, tmp_path, ("compare", "--dry-run"), words)


@_examples(200)
@given(
    command=st.sampled_from(["add", "remove", "convert", "fold", "recalibrate", "summary"]),
    words=st.lists(_WORDS, max_size=5),
)
def test_broken_command_lines_about_a_model(capsys, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    _without_work(capsys, tmp_path, (command,), words)


@_examples(100)
@given(words=st.lists(st.one_of(_WORDS, st.sampled_from(["--select", "--ignore", "--fail-on", "--format", "--fix", "--config", "--per-layer-ignores",
                                                        "BN1", "BN999", "json", "github", "error", "results/x/runs/3f2a"])), max_size=5))  # fmt: skip
def test_broken_checks(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = invoke(capsys, "check", *words)
    if result.status != 1:  # findings are no mistake
        _without_work(capsys, tmp_path, ("check",), words)


@_examples(50)
@given(name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10))
def test_broken_names_of_rules(capsys, name):
    result = invoke(capsys, "explain", "--", name)  # the tool that makes them up knows our codes
    _right_or_one_line(result)


@_examples(200)
@given(table=st.dictionaries(st.one_of(st.sampled_from(["select", "ignore", "fail-on", "per-layer-ignores"]), st.text(max_size=6)), _VALUES, max_size=3))  # fmt: skip
def test_broken_settings_of_a_project(tmp_path, table):
    path = tmp_path / "pyproject.toml"
    path.write_text(tomli_w.dumps({"tool": {"bnkit": table}}), encoding="utf-8")
    told = ""
    try:
        load_config(path)
    except SettingsError as error:
        told = str(error)
    assert "\n" not in told


_TARGETS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from([f"{NETS}:{name}" for name in ("raises", "ends", "number", "SIZE", "absent", "_", "")]),
    st.sampled_from(
        [":", "a:b", ".:x", "..:x", "/:x", f"{NETS}", "torch:nn", "sys:exit", "os:getcwd", "x" * 5000 + ".py:f"]
    ),
)
_SHAPES = st.one_of(
    st.text(max_size=8),
    st.from_regex(r"\A[0-9]{1,3}(x[0-9]{1,2}){0,4}\Z"),
    st.sampled_from(
        ["2x1x8x8:int64", "x=2x1x8x8", "2x1x8x8:", "0x1x8x8", "99999999x99999999", "2x1x8x8:complex64", "²x1"]
    ),
)


@_examples(100)
@given(target=_TARGETS)
def test_broken_targets(capsys, target):
    result = invoke(capsys, "fold", "--input", "2x1x8x8", "--", target)
    assert result.status == 2
    _right_or_one_line(result)


@_examples(150)
@given(shapes=st.lists(_SHAPES, min_size=1, max_size=2))
def test_broken_shapes(capsys, shapes):
    options = [option for shape in shapes for option in ("--input", shape)]
    _right_or_one_line(invoke(capsys, "fold", f"{NETS}:Normalised", *options))


@_examples(150)
@given(
    ending=st.sampled_from([".safetensors", ".pt", ".old"]),
    share=st.floats(0, 1, exclude_max=True),
    noise=st.binary(max_size=20),
)
def test_weights_cut_off_at_any_byte(capsys, tmp_path, ending, share, noise):
    whole = tmp_path / f"whole{ending}"
    if not whole.exists():
        model = user_networks.Normalised()
        if ending == ".safetensors":
            save_file(model.state_dict(), whole)
        else:
            torch.save(model.state_dict(), whole, _use_new_zipfile_serialization=ending == ".pt")
    content = whole.read_bytes()
    path = tmp_path / f"cut{ending}"
    # The old format has padding at its end, without which it is whole.
    path.write_bytes(content[: int(share * len(content) * 0.95)] + noise)
    result = invoke(capsys, "fold", f"{NETS}:Normalised", "--input", "2x1x8x8", "--weights", str(path))
    assert result.status == 2
    _right_or_one_line(result)


def test_what_was_recorded_outlives_them_all(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    for wrong in (["--grid", "lr=nan"], ["--seeds", "-3"], ["--epochs", "1e3"], ["--data", "nowhere.npz"], ["--network", "nets.py:"],
                  ["--device", "cuda:99"], ["--grid", "depth=3"], ["--fresh", "--grid", "optimizer=sgdd"]):  # fmt: skip
        result = invoke(capsys, "compare", *QUICK_COMPARE, "--out", "r", *wrong)
        assert result.status == 2, wrong
        _right_or_one_line(result)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before
